"""Atomic, durable writes: a file is on disk as a whole or not at all, whatever dies meanwhile."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""Name of a file that is not complete yet; a killed process leaves such files behind."""


def atomic_write(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file from memory, as ``atomic_path`` does."""
    with atomic_path(path, replace=replace) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes ``path`` when the block succeeds.

    The file and its name are on disk afterwards. It keeps the permissions with which the block made it. When
    the block raises, ``path`` is what it was. With ``replace=False`` an existing ``path`` stays: of several
    writers at once, the first one wins.

    Raises:
        OSError: the file cannot be flushed or renamed; ``path`` is what it was.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        if replace:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def _link(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        temporary.replace(path)


def fsync_path(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
