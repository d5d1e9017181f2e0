"""The commands of ``python -m benchmarks`` whose results can be compared, one a file."""
