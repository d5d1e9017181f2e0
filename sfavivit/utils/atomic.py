"""Files that are on disk as a whole or not at all, whatever dies in the middle of writing them."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""What ``write_durably`` calls a file before it is complete, and what SIGKILL leaves of one."""


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """The file and its name are on disk when this returns; its permissions are what the umask gives.

    ``replace=False``: whoever wrote the file first has written it, and this does nothing.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError:  # a file system that has no links
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
