"""From a path or bytes to the one descriptor that the decoder gets: a file, not empty, no playlist."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass

from sfavivit.errors import (
    EmptyVideoError,
    ForbiddenFormatError,
    NotAFileError,
    UsageError,
    VideoError,
    VideoNotFoundError,
    VideoPermissionError,
)


@dataclass(frozen=True)
class OpenSource:
    """An open file, or the read end of a pipe, that whoever opens the source takes over and closes.

    ``name`` is how messages name it. For a pipe see :class:`sfavivit.video.pipe.VideoPipe`.
    """

    descriptor: int
    name: str


Source = str | os.PathLike[str] | bytes | OpenSource
"""A path, the content of a video file, or a file that is open already."""

MAX_SECONDS = 1e9
"""Latest time that a segment may name: beyond any video, and exact in microseconds."""


@dataclass(frozen=True)
class VideoSegment:
    """A stretch of a video, [``start_seconds``, ``end_seconds``); to its end when that is None.

    Raises:
        UsageError: not 0 <= start < end <= ``MAX_SECONDS``.
    """

    source: Source
    start_seconds: float = 0.0
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        check_range(self.start_seconds, self.end_seconds)


def check_range(start_seconds: float, end_seconds: float | None) -> None:
    """Raise ``UsageError`` unless 0 <= start < end <= ``MAX_SECONDS``."""
    if not 0 <= start_seconds <= MAX_SECONDS:
        raise UsageError(f"the start must be from 0 to {MAX_SECONDS:g} s, got {start_seconds:g}")
    if end_seconds is not None and not start_seconds < end_seconds <= MAX_SECONDS:
        raise UsageError(f"the end must be after the start ({start_seconds:g} s), got {end_seconds:g}")


_OPEN_ERRORS: dict[int, tuple[type[VideoError], str]] = {
    errno.ENOENT: (VideoNotFoundError, "no such file"),
    errno.ENOTDIR: (VideoNotFoundError, "no such file: a part of its path is not a directory"),
    errno.ENAMETOOLONG: (VideoNotFoundError, "no such file: the name is too long for a file"),
    errno.ELOOP: (VideoNotFoundError, "no such file: its symbolic links go in a circle"),
    errno.EACCES: (VideoPermissionError, "this user may not read it; change its permissions"),
    errno.EPERM: (VideoPermissionError, "this user may not read it; change its permissions"),
    errno.ENXIO: (NotAFileError, "a socket or device, not a file; give the path of a video file"),
}

# How files begin that name other files or addresses. The decoder refuses them in any case (it is told
# which containers it may read, and is confined); this is what gives them an error of their own.
HEAD_BYTES = 4096
_PLAYLISTS: tuple[tuple[str, bytes], ...] = (
    ("an HLS or m3u playlist", rb"#EXTM3U"),
    ("an ffmpeg concat script", rb"ffconcat version|(?:#[^\n]*\n|\s)*file\s"),
    ("an SDP session description", rb"v=0\r?\n"),
    ("a PLS playlist", rb"\[(?:playlist|Reference)\]"),
    ("a DASH manifest", rb"<(?:[^>]*>\s*<){0,8}MPD[\s>]"),
    (
        "an XML playlist",
        rb"<(?:[^>]*>\s*<){0,8}(?:asx|smil|playlist|SmoothStreamingMedia|CompositionPlaylist)[\s>]",
    ),
    ("an RTSP redirect", rb"RTSPtext|rtsp://"),
)


def display_name(source: Source) -> str:
    """The source as error messages name it: on one line, whatever is in the name."""
    if isinstance(source, OpenSource):
        return source.name
    return f"video of {len(source)} bytes" if isinstance(source, bytes) else repr(os.fspath(source))


def open_source(source: Source) -> int:
    """A descriptor at the start of a regular file that is not empty and not a playlist; the caller closes it.

    Never blocks, as opening a named pipe otherwise would. Raises the :class:`VideoError` that says why not.
    """
    name = display_name(source)
    if isinstance(source, OpenSource):
        descriptor = source.descriptor
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return descriptor  # whoever fills the pipe looks at what goes in
    elif isinstance(source, bytes):
        descriptor = _from_bytes(source)
    else:
        descriptor = _from_path(os.fspath(source), name)
    try:
        _check(descriptor, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise NotAFileError(f"{name}: {what}, not a file; give the path of a video file")
    if not status.st_size:
        raise EmptyVideoError(f"{name}: the file is empty (0 bytes)")
    refuse_playlist(os.pread(descriptor, HEAD_BYTES, 0), name)


def refuse_playlist(head: bytes, name: str) -> None:
    """Raise ``ForbiddenFormatError`` when the first ``HEAD_BYTES`` of a file are those of a playlist."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for what, start in _PLAYLISTS:
        if re.match(start, head, re.IGNORECASE):
            raise ForbiddenFormatError(
                f"{name}: {what}, which refers to other files or addresses; give the video file itself"
            )


def _from_path(path: str, name: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:
        raise VideoNotFoundError(f"{name}: no such file: a name cannot hold a null character") from None
    except OSError as error:
        kind, what = _OPEN_ERRORS.get(error.errno or 0, (VideoError, f"cannot be opened: {error.strerror}"))
        raise kind(f"{name}: {what}") from None


def _from_bytes(content: bytes) -> int:
    """A descriptor of a file without a name, in memory, that holds ``content``."""
    descriptor = os.memfd_create("video", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
