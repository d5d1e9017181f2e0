"""Runner of the command-line applications: errors become one line and an exit code."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

import typer
from typer.main import get_command

from sfavivit.errors import SfaVivitError, codes_of
from sfavivit.utils.text import printable

DEBUG_VARIABLE = "SFAVIVIT_DEBUG"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLAIN = {"━": "=", "┄": ".", "─": "-", "–": "-", "…": "~"}
"""ASCII in place of what our views draw with."""


def debugging() -> bool:
    """Return whether the user asked for tracebacks and the messages of other libraries."""
    return bool(os.environ.get(DEBUG_VARIABLE))


def run_app(app: typer.Typer) -> None:
    """Run a Typer application and exit. ``SFAVIVIT_DEBUG=1`` shows the traceback of an error."""
    prepare_output()
    command = get_command(app)
    show_bare_flags(command)
    try:
        try:
            command()
        except SystemExit:
            sys.stdout.flush()  # here, where a failure can still be told
            raise
    except SfaVivitError as error:
        _fail(str(error), codes_of(error).exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        _exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            place = f" {error.filename}" if error.filename else ""
            _fail(f"cannot write{place}: {error.strerror}; free space, or write elsewhere", 1)
        hint = f"please report it ({DEBUG_VARIABLE}=1 shows where)"
        _fail(f"internal error: {type(error).__name__}: {error}; {hint}", 1)


def show_bare_flags(command: Any) -> None:
    """Have the help of a command and its subcommands show flags as `--flag`, where Typer adds `<bool>`."""
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for subcommand in getattr(command, "commands", {}).values():
        show_bare_flags(subcommand)


def prepare_output() -> None:
    """Let standard output replace characters that its encoding lacks; a closed stream takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - not a path; open to the end
    codecs.register_error("plain", _plain)
    # Another handler than these two is the user's choice (PYTHONIOENCODING).
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(char, "?") for char in error.object[error.start : error.end]), error.end


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):  # standard error may be full or closed, too; the code still tells
        if debugging():
            traceback.print_exc()
        print(f"error: {printable(message)}", file=sys.stderr)
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Exit, and leave no output that the interpreter would fail to flush, which is exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
