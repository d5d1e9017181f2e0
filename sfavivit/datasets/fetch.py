"""Download of videos and lists by fsspec, into a temporary file without a name."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any

from sfavivit.errors import UsageError, VideoError, VideoLimitError, VideoNotFoundError, VideoPermissionError
from sfavivit.utils.text import error_line, one_line
from sfavivit.video.source import OpenSource, Source

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_COPY_BYTES = 1 << 20


def scheme_of(video: str) -> str | None:
    """Return ``s3`` for ``s3://bucket/video.mp4``; None for a path."""
    match = _SCHEME.match(video)
    return match[1].lower() if match else None


def check_schemes(addresses: Iterable[str]) -> None:
    """Check that fsspec can handle every kind of address, before anything is downloaded.

    Raises:
        UsageError: an unknown scheme, or one whose package is not installed.
    """
    examples = {scheme: address for address in addresses if (scheme := scheme_of(address))}
    for scheme, video in examples.items():
        try:
            _fsspec().get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{video!r:.200} cannot be fetched: {one_line(error)}") from None


def open_video(video: str, limit_bytes: int) -> Source:
    """Return a path as it is, and a URL downloaded. Raises as ``fetched``."""
    return fetched(video, limit_bytes) if scheme_of(video) else video


def fetched(url: str, limit_bytes: int) -> OpenSource:
    """Download a file, which the caller must close; timeouts are those of the file system's own settings.

    Raises:
        VideoError: the download failed, or has more than ``limit_bytes``.
        UsageError: fsspec is not installed.
    """
    name = repr(url)
    if "::" in url:
        raise VideoError(f"{name}: chained addresses are not fetched; give the address of the file itself")
    try:
        with _fsspec().open(url, "rb") as remote, tempfile.TemporaryFile() as local:
            size = 0
            while chunk := remote.read(_COPY_BYTES):
                size += len(chunk)
                if size > limit_bytes:
                    raise VideoLimitError(f"{name}: more than {limit_bytes} bytes, the limit")
                local.write(chunk)
            local.seek(0)  # which also writes what is buffered
            return OpenSource(os.dup(local.fileno()), name)
    except (VideoError, UsageError):
        raise
    except Exception as error:  # each file system has its own, with no base in common
        raise _video_error(name, error) from error


def _video_error(name: str, error: Exception) -> VideoError:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, OSError):
        return _video_error(name, cause)  # fsspec's HTTP reports an unreachable server as a missing file
    if isinstance(error, FileNotFoundError):
        return VideoNotFoundError(f"{name}: no such file")
    if isinstance(error, PermissionError):
        return VideoPermissionError(f"{name}: access is denied; give this process credentials")
    return VideoError(f"{name}: cannot be fetched: {error_line(error)}")


def _fsspec() -> Any:
    try:
        import fsspec  # noqa: PLC0415 - an extra, for URLs only
    except ImportError:
        raise UsageError("videos that are not paths need a package: pip install 'sfavivit[score]'") from None
    return fsspec
