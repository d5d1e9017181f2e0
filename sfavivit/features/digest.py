"""Digest of a video file's content, with a check that the file did not change while it was in use."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO

READ_BYTES = 1 << 20
# The clock that dates files stands still for milliseconds, and servers have clocks of their own.
RECENT_SECONDS = 2.0
_MAX_REMEMBERED = 4096

_remembered: dict[_Version, str] = {}


@dataclass(frozen=True)
class _Version:
    """File identity and times, which differ between files and change when a file is written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: FileIO) -> _Version:
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def recent(self) -> bool:
        """True while the file could be written to again without its times showing it."""
        return time.time() - self.changed_ns / 1e9 < RECENT_SECONDS


class VideoDigest:
    """SHA-256 of a file, read from its start, where it is left again; None when ``stopped`` returned True.

    A digest is remembered for as long as the process lives and the file stays as it is: lists name many
    segments of one long video.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, file: FileIO, stopped: Callable[[], bool]) -> None:
        self._file = file
        self._stopped = stopped
        self._version = _Version.of(file)
        self._certain = not self._version.recent
        self.sha256 = _remembered.get(self._version) if self._certain else None
        if self.sha256 is None:
            self.sha256 = self._read()
            if self._certain and self.sha256 and _Version.of(file) == self._version:
                _remember(self._version, self.sha256)

    def holds(self) -> bool:
        """Return whether the file is unchanged since its digest was taken."""
        if _Version.of(self._file) != self._version:
            return False
        return self._certain or self._read() == self.sha256

    def _read(self) -> str | None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(READ_BYTES))
        self._file.seek(0)
        while count := self._file.readinto(buffer):
            if self._stopped():
                return None
            digest.update(buffer[:count])
        self._file.seek(0)
        return digest.hexdigest()


def _remember(version: _Version, sha256: str) -> None:
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.pop(next(iter(_remembered)), None)
    _remembered[version] = sha256
