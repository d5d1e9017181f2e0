"""Video sources: paths, bytes and open files, and the descriptor that the decoder reads."""

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
    """An open file, or the read end of a pipe (:class:`sfavivit.video.pipe.VideoPipe`).

    The reader takes over the descriptor and closes it. ``name`` stands for it in messages.
    """

    descriptor: int
    name: str


Source = str | os.PathLike[str] | bytes | OpenSource
"""A path, the content of a video file, or an open file."""

MAX_SECONDS = 1e9
"""Latest time that a segment may name: beyond any video, and exact in microseconds."""


@dataclass(frozen=True)
class VideoSegment:
    """A stretch of a video, [``start_seconds``, ``end_seconds``); to its end when that is None.

    ``video_track``: number of the video track, from 0. None: the default one, else that of most pixels.

    Raises:
        UsageError: not 0 <= start < end <= ``MAX_SECONDS``, or a negative track.
    """

    source: Source
    start_seconds: float = 0.0
    end_seconds: float | None = None
    video_track: int | None = None

    def __post_init__(self) -> None:
        start, end = self.start_seconds, self.end_seconds
        if not 0 <= start <= MAX_SECONDS:
            raise UsageError(f"the start must be from 0 to {MAX_SECONDS:g} s, got {start:g}")
        if end is not None and not start < end <= MAX_SECONDS:
            raise UsageError(f"the end must be after the start ({start:g} s), got {end:g}")
        if self.video_track is not None and self.video_track < 0:
            raise UsageError(f"the video track must be 0 or more, got {self.video_track}")


_OPEN_ERRORS: dict[int, tuple[type[VideoError], str]] = {
    errno.ENOENT: (VideoNotFoundError, "no such file"),
    errno.ENOTDIR: (VideoNotFoundError, "no such file: a part of its path is not a directory"),
    errno.ENAMETOOLONG: (VideoNotFoundError, "no such file: the name is too long for a file"),
    errno.ELOOP: (VideoNotFoundError, "no such file: its symbolic links go in a circle"),
    errno.EACCES: (VideoPermissionError, "this user may not read it; change its permissions"),
    errno.EPERM: (VideoPermissionError, "this user may not read it; change its permissions"),
    errno.ENXIO: (NotAFileError, "a socket or device, not a file; give the path of a video file"),
}

# The first bytes of files that refer to other files or addresses. The decoder refuses them in any case (it
# has a whitelist of containers, and is confined); this gives them an error of their own.
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
    """Name of a source for messages, on one line whatever the path contains."""
    if isinstance(source, OpenSource):
        return source.name
    return f"video of {len(source)} bytes" if isinstance(source, bytes) else repr(os.fspath(source))


def open_source(source: Source) -> int:
    """Open a source and return a descriptor at its start, for the caller to close.

    Never blocks, as opening a named pipe otherwise would.

    Raises:
        VideoError: not a readable, regular, non-empty file (the subclass says which).
        ForbiddenFormatError: a playlist.
    """
    name = display_name(source)
    if isinstance(source, OpenSource):
        descriptor = source.descriptor
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError as error:
            raise VideoError(f"{name}: cannot be opened: {error.strerror}") from None
        if stat.S_ISFIFO(mode):
            return descriptor  # VideoPipe checks the content as it is written
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
    """Raise ``ForbiddenFormatError`` if the first ``HEAD_BYTES`` of a file are those of a playlist."""
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
    """Return a descriptor of an anonymous file in memory that holds ``content``."""
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
