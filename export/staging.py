"""Change a directory atomically."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfavivit.errors import ExportError
from sfavivit.utils.atomic import fsync_path

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a copy of directory ``target`` that takes the target's place when the block succeeds.

    The copy's files are hard links: replace files in it, never write into them. When the block raises, or
    the process dies anywhere, the target is unchanged (a dead process leaves a ``.NAME.staged-*`` directory
    beside it, which the next call removes). One writer at a time; a second one waits.

    Raises:
        ExportError: the directory cannot be made, copied or exchanged.
    """
    target = Path(os.path.realpath(target))
    prefix = f".{target.name}.staged-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            for leftover in target.parent.glob(f"{prefix}*"):
                shutil.rmtree(leftover)
            stage = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            try:
                stage.chmod(0o755)
                if target.exists():
                    shutil.copytree(target, stage, copy_function=os.link, dirs_exist_ok=True)
                yield stage
                _sync_tree(stage)
                _replace(stage, target)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or target}: {error.strerror}") from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(stage: Path, target: Path) -> None:
    """Rename ``stage`` to ``target`` in one step; an old ``target`` is then at ``stage``."""
    if not target.exists():
        stage.rename(target)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_FDCWD, bytes(stage), AT_FDCWD, bytes(target), RENAME_EXCHANGE):
            code = ctypes.get_errno()
            hint = " (is it a mount point? export into a directory inside it)" if code == errno.EBUSY else ""
            raise ExportError(f"cannot replace {target}: {os.strerror(code)}{hint}")
    fsync_path(target.parent)


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in (*files, "."):
            fsync_path(Path(folder, name))
