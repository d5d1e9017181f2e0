"""The command-line client of the video service."""
