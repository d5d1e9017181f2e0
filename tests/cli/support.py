"""Runs of the ``sfavivit`` command: in this process, as a process of its own, and on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from sfavivit.cli.main import app
from tests.commands import SFAVIVIT, run_here


def run(*arguments: str | Path, **environment: str) -> CompletedProcess[str]:
    """Run the command in this process."""
    return run_here(app, *arguments, **environment)


def run_process(*arguments: str | Path, **options: Any) -> CompletedProcess[str]:
    """Run the command as a process of its own, with ``options`` of ``subprocess.run``."""
    words = [*SFAVIVIT, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def run_on_terminal(*arguments: str | Path) -> tuple[str, str]:
    """Run the command with a terminal for its standard error; returns standard output, and what was drawn."""
    master, slave = pty.openpty()
    words = [*SFAVIVIT, *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave, text=True, env=environment) as process:
        os.close(slave)
        drawn = ""
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(master, 1 << 16):
                drawn += data.decode(errors="replace")
        os.close(master)
        output, _ = process.communicate()
    return output, drawn
