"""Runs of the ``sfavivit`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import CompletedProcess

from sfavivit.cli.main import app
from tests.commands import run_here

SFAVIVIT = [sys.executable, "-m", "sfavivit.cli.main"]
"""The command as a process of its own."""


def run(*arguments: str | Path, **environment: str) -> CompletedProcess[str]:
    """Run the command in this process."""
    return run_here(app, *arguments, **environment)
