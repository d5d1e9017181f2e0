"""The model repository: its manifest, and the part of it in Triton's configs."""
