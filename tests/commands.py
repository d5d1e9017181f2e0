"""Commands without a process of their own: imports, which take most of a short command, are there already."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer

from sfavivit.cli.run import run_app

SFAVIVIT = [sys.executable, "-m", "sfavivit.cli.main"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_here(app: typer.Typer, *arguments: str | Path, **environment: str) -> CompletedProcess[str]:
    """From the command line to the exit code, as ``python -m`` would, in this process.

    Each command has tests of a real process, too.
    """
    words = ["command", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        _signals_kept(),
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
        pytest.raises(SystemExit) as end,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", words)
        run_app(app)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


@contextmanager
def _signals_kept() -> Iterator[None]:
    """A command may have handlers of its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
