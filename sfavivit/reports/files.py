"""Files that a command writes at its end: checked before the work, and written atomically."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.utils.atomic import atomic_write

PAGE_SUFFIXES = (".html", ".htm")


def check_target(path: Path, option: str, suffixes: Collection[str]) -> None:
    """Check that ``path`` can be written, before hours of work are lost.

    Raises:
        UsageError: another suffix, a folder that is missing or cannot be written, or not a regular file.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {str(path)!r}: name a file that ends in {', '.join(suffixes)}")
    try:
        target = _target(path)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise UsageError(f"{option} {str(path)!r}: what is there is not a file; name another")
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{option} {str(path)!r}: cannot be written: {reason}") from None


def write_file(path: Path, content: bytes) -> None:
    """Write a file durably and atomically.

    Raises:
        UsageError: the disk is full, or the folder has been removed in the meantime.
    """
    try:
        atomic_write(_target(path), content)
    except OSError as error:
        raise UsageError(f"{str(path)!r}: cannot be written: {error.strerror}") from None


def _target(path: Path) -> Path:
    """Return the target of a link, so that the link itself stays."""
    return Path(os.path.realpath(path))
