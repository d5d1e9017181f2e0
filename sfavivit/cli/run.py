"""Runner of the command-line applications: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from sfavivit.errors import SfaVivitError, codes_of
from sfavivit.utils.text import printable

DEBUG_VARIABLE = "SFAVIVIT_DEBUG"


def debugging() -> bool:
    """Return whether the user asked for tracebacks and the messages of other libraries."""
    return bool(os.environ.get(DEBUG_VARIABLE))


def run_app(app: typer.Typer) -> None:
    """Run a Typer application and exit. ``SFAVIVIT_DEBUG=1`` shows the traceback of an error."""
    try:
        app()
    except SfaVivitError as error:
        _fail(str(error), codes_of(error).exit_code)
    except BrokenPipeError:
        # The reader of our output has gone; leave nothing for the interpreter to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        hint = f"please report it ({DEBUG_VARIABLE}=1 shows where)"
        _fail(f"internal error: {type(error).__name__}: {error}; {hint}", 1)


def _fail(message: str, code: int) -> None:
    if debugging():
        traceback.print_exc()
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)
