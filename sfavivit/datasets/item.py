"""A video of a list, and the path of its file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from sfavivit.datasets.fetch import scheme_of
from sfavivit.errors import UsageError
from sfavivit.video.source import VideoSegment

_CACHED_FILES = 4096  # files looked up before; EPIC-KITCHENS has thousands of rows per video


@dataclass(frozen=True, slots=True)
class VideoItem:
    """A video of a list, or its segment [``start_seconds``, ``end_seconds``), and its labels.

    Attributes:
        id: unique in the list.
        video: path or URL.
        labels: {output of a head: name or index of the true class}; a head's only output is called ``""``.
        start_seconds: start of the segment.
        end_seconds: end of the segment; None for the end of the video.
    """

    id: str
    video: str
    labels: dict[str, str | int]
    start_seconds: float = 0.0
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        try:
            VideoSegment(self.video, self.start_seconds, self.end_seconds)
        except UsageError as error:
            raise ValueError(str(error)) from None


class VideoFolder:
    """Folder, or URL of one, that relative paths of videos start from."""

    def __init__(self, root: str | Path) -> None:
        scheme, root = scheme_of(str(root)), str(root).removeprefix("file://")
        # A Path per row would double the time of long lists.
        self._root = root if scheme not in (None, "file") else os.path.abspath(root)  # noqa: PTH100
        self._quoted = scheme in ("http", "https")
        self._exists = lru_cache(_CACHED_FILES)(os.path.exists)

    def path(self, video: str) -> str:
        """Return the absolute path of a video; a URL as it is."""
        if scheme_of(video):
            return video
        relative = quote(video) if self._quoted and not video.startswith("/") else video
        return os.path.join(self._root, relative)  # noqa: PTH118 - as above

    def find(self, candidates: Iterable[str]) -> str | None:
        """Return the absolute path of the first candidate that exists, if one does."""
        return next(filter(self._exists, map(self.path, candidates)), None)

    def find_or_first(self, candidates: list[str]) -> str:
        """Return as ``find``; the first candidate when none exists, so that errors name it."""
        return self.find(candidates) or self.path(candidates[0])
