"""The model repository on disk and what Triton's configs carry of it."""
