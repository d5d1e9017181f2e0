"""Uploaded bytes on disk, in a file that has no name: whatever ends this process ends it too."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from sfavivit.errors import EmptyVideoError, ServiceError, VideoLimitError
from sfavivit.video.source import OpenSource

NAME = "uploaded video"


class Spool:
    """A context manager: write to it, then read the video from ``source``. Needs one thread at a time."""

    def __init__(self, folder: Path | None, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        try:
            self._descriptor = _unnamed_file(str(folder or tempfile.gettempdir()))
        except OSError as error:
            raise _disk_error(error) from None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            VideoLimitError: more than ``limit_bytes``.
            ServiceError: the disk is full.
        """
        self._bytes += len(data)
        check_upload_size(self._bytes, self._limit_bytes)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _disk_error(error) from None

    def source(self) -> OpenSource:
        """The file from its start, to be taken over by a video reader. Raises ``EmptyVideoError``."""
        if not self._bytes:
            raise EmptyVideoError(f"{NAME}: no bytes were sent after the config")
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return OpenSource(os.dup(self._descriptor), NAME)


def check_upload_size(size: int, limit_bytes: int) -> None:
    """Raises ``VideoLimitError``."""
    if size > limit_bytes:
        raise VideoLimitError(f"{NAME}: {size} bytes or more, the limit of this service is {limit_bytes}")


def _unnamed_file(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    descriptor, name = tempfile.mkstemp(dir=folder)  # file systems that have no O_TMPFILE: open(2)
    os.unlink(name)  # noqa: PTH108
    return descriptor


def _disk_error(error: OSError) -> ServiceError:
    return ServiceError(f"the service cannot store an upload: {error.strerror}; try again later")
