"""Uploaded bytes on disk, in a file without a name: it is gone when this process ends, however it ends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sfavivit.errors import EmptyVideoError, InvalidInputError, ServiceError, UsageError, VideoLimitError
from sfavivit.video.source import OpenSource

NAME = "uploaded video"


def check_spool(folder: Path | None) -> None:
    """Raise ``UsageError`` unless a file can be made in ``folder`` (None: the system's)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        place = f"--spool {folder}" if folder else "the system's temporary folder"
        raise UsageError(f"no upload can be stored in {place}: {error.strerror}") from error


class Spool:
    """Uploaded file: write to it, then read the video from ``source``.

    A context manager; for one thread at a time.
    ``declared_bytes``: size that the client announced, 0 when it did not.

    Raises:
        InvalidInputError: a negative size.
        VideoLimitError: a size above ``max_bytes``.
        ServiceError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, max_bytes: int, declared_bytes: int) -> None:
        if declared_bytes < 0:
            raise InvalidInputError(f"content_size must be at least 0, got {declared_bytes}")
        self._max_bytes = max_bytes
        self._declared_bytes = declared_bytes
        self._bytes = 0
        self._check_limit(declared_bytes)
        try:
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
        except OSError as error:
            raise _disk_error(error) from None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes to the file.

        Raises:
            VideoLimitError: more than ``max_bytes``.
            InvalidInputError: more than the declared size.
            ServiceError: the disk is full.
        """
        self._bytes += len(data)
        self._check_limit(self._bytes)
        if 0 < self._declared_bytes < self._bytes:
            raise self._wrong_size(f"{self._bytes} bytes or more")
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _disk_error(error) from None

    def source(self) -> OpenSource:
        """Return the complete file from its start, for a video reader, which takes it over.

        Raises:
            InvalidInputError: less than the declared size was written.
            EmptyVideoError: nothing was written.
        """
        if self._declared_bytes not in (0, self._bytes):
            raise self._wrong_size(f"{self._bytes} bytes")
        if not self._bytes:
            raise EmptyVideoError(f"{NAME}: no bytes were sent after the config")
        self._file.seek(0)
        return OpenSource(os.dup(self._file.fileno()), NAME)

    def _check_limit(self, size: int) -> None:
        if size > self._max_bytes:
            raise VideoLimitError(
                f"{NAME}: {size} bytes or more, the limit of this service is {self._max_bytes}"
            )

    def _wrong_size(self, came: str) -> InvalidInputError:
        return InvalidInputError(f"{NAME}: {came} came, but content_size is {self._declared_bytes}")


def _disk_error(error: OSError) -> ServiceError:
    return ServiceError(f"the service cannot store an upload: {error.strerror}; try again later")
