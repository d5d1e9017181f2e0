"""Applications of the system, each a package that runs as ``python -m examples.NAME``."""
