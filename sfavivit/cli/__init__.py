"""The ``sfavivit`` command line, one file per command."""
