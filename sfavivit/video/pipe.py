"""Pipe for a video file that is still arriving.

A pipe cannot be read twice, so playlists, and MP4 files that need seeking, are found in the bytes written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from typing import Self

from sfavivit.errors import EmptyVideoError, NotStreamableError
from sfavivit.video.source import HEAD_BYTES, OpenSource, refuse_playlist

_PIPE_BYTES = 1 << 20
_CLOSED_CHECK_MILLISECONDS = 100


class VideoPipe:
    """Pipe into the decoder: the bytes of a file are written here while its frames are read elsewhere.

    The frames come from ``VideoReader(pipe.source, ...)`` in another thread. ``write`` blocks while the pipe
    is full; ``end`` and ``close`` may be called from any thread, and unblock it.

    Raises (in ``write`` and ``finish``):
        ForbiddenFormatError: the file is a playlist.
        NotStreamableError: an MP4 file whose index comes last.
        EmptyVideoError: finished without a byte.
    """

    def __init__(self, name: str) -> None:
        self._reading, self._descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._name = name
        self._head: bytes | None = b""
        self._boxes = _Mp4Boxes()
        self._lock = threading.Lock()
        self._reading_lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def source(self) -> OpenSource:
        """Read end of the pipe. May be asked for once; the reader closes it."""
        with self._reading_lock:  # the other lock is held while a write waits for a reader
            reading, self._reading = self._reading, -1
        return OpenSource(reading, self._name)

    def write(self, data: bytes) -> bool:
        """Write the next bytes of the file; return False when the reader has gone."""
        if self._boxes.media_before_index(data):
            raise NotStreamableError(
                f"{self._name}: an MP4 file whose index (moov) comes after its media cannot be read while it "
                "arrives; send the whole file first, or remux it with `-movflags +faststart`"
            )
        if self._head is not None:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return True
            data = self._checked_head()
        return self._write(data)

    def finish(self) -> None:
        """Write what is still held back, and end the file."""
        if self._head is not None:
            if not self._head:
                raise EmptyVideoError(f"{self._name}: the file is empty (0 bytes)")
            self._write(self._checked_head())
        self.end()

    def end(self) -> None:
        """End the file here. Bytes already written can still be read."""
        self._closed = True
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def close(self) -> None:
        """End the file, and close the read end if no reader has taken it."""
        self.end()
        with self._reading_lock:
            if self._reading >= 0:
                os.close(self._reading)
                self._reading = -1

    def _checked_head(self) -> bytes:
        head, self._head = self._head or b"", None
        refuse_playlist(head[:HEAD_BYTES], self._name)
        return head

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        with self._lock:
            poll = select.poll()
            if self._descriptor >= 0:
                poll.register(self._descriptor, select.POLLOUT)
            while view and not self._closed:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    poll.poll(_CLOSED_CHECK_MILLISECONDS)
                except BrokenPipeError:
                    return False
        return not self._closed


class _Mp4Boxes:
    """Incremental parser of the top-level boxes of an MP4 file (ISO/IEC 14496-12, 4.2), up to its index."""

    _SKIPPED = (b"ftyp", b"styp", b"free", b"skip", b"wide", b"pnot", b"uuid", b"meta")

    def __init__(self) -> None:
        self._header = b""
        self._skip = 0
        self._done = False

    def media_before_index(self, data: bytes) -> bool:
        """Parse the next bytes of the file; return whether a box ``mdat`` begins before a box ``moov``."""
        at = 0
        while not self._done and at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            need = 16 if self._header[:4] == b"\0\0\0\1" else 8
            step = min(need - len(self._header), len(data) - at)
            self._header += data[at : at + step]
            at += step
            if len(self._header) < need or (need == 8 and self._header[:4] == b"\0\0\0\1"):
                continue
            if self._header[4:8] == b"mdat":
                return True
            size = int.from_bytes(self._header[8:16] if need == 16 else self._header[:4], "big")
            self._skip = size - need
            self._done = self._header[4:8] not in self._SKIPPED or self._skip < 0
            self._header = b""
        return False
