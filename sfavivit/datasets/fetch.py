"""Download of videos and lists by fsspec, into a temporary file without a name."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

from sfavivit.datasets.http_download import SCHEMES, download
from sfavivit.errors import UsageError, VideoError, VideoLimitError, VideoNotFoundError, VideoPermissionError
from sfavivit.extras import needs_extra
from sfavivit.utils.network import masked_url
from sfavivit.utils.text import error_line, one_line
from sfavivit.video.limits import Limits
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
            raise UsageError(f"{masked_url(video)!r:.200} cannot be fetched: {one_line(error)}") from None


def open_video(video: str, limit_bytes: int, stall_seconds: float = Limits.stall_seconds) -> Source:
    """Return a path as it is, and a URL downloaded. Raises as ``fetched``."""
    return fetched(video, limit_bytes, stall_seconds) if scheme_of(video) else video


def fetched(url: str, limit_bytes: int, stall_seconds: float = Limits.stall_seconds) -> OpenSource:
    """Download a file, which the caller must close.

    HTTP may take any time, but no longer than ``stall_seconds`` for the next byte. The timeouts of other
    file systems are those of their own settings.

    Raises:
        VideoError: the download failed, stalled, or has more than ``limit_bytes``.
        UsageError: fsspec is not installed.
    """
    name = repr(masked_url(url))
    if "::" in url:
        raise VideoError(f"{name}: chained addresses are not fetched; give the address of the file itself")
    fsspec = _fsspec()
    try:
        with _BoundedFile(name, limit_bytes) as local:
            if scheme_of(url) in SCHEMES:
                download(url, local, stall_seconds)
            else:
                with fsspec.open(url, "rb") as remote:
                    shutil.copyfileobj(remote, local, _COPY_BYTES)
            local.seek(0)  # which also writes what is buffered
            return OpenSource(os.dup(local.fileno()), name)
    except VideoError:
        raise
    except Exception as error:  # each file system has its own, with no base in common
        raise _video_error(name, error) from error


class _BoundedFile(io.BufferedRandom):
    """Temporary file without a name, which never grows beyond ``limit_bytes``."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        super().__init__(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - closed with this object
        self._video, self._limit_bytes = name, limit_bytes

    def write(self, content: Any, /) -> int:
        if self.tell() + len(content) > self._limit_bytes:
            raise VideoLimitError(f"{self._video}: more than {self._limit_bytes} bytes, the limit")
        return super().write(content)


def _video_error(name: str, error: Exception) -> VideoError:
    if isinstance(error, FileNotFoundError):
        return VideoNotFoundError(f"{name}: no such file")
    if isinstance(error, PermissionError):
        return VideoPermissionError(f"{name}: access is denied; give this process credentials")
    return VideoError(f"{name}: cannot be fetched: {error_line(error)}")


def _fsspec() -> Any:
    with needs_extra("a video that is no path", "score"):
        import fsspec  # noqa: PLC0415 - an extra, for URLs only
    return fsspec
