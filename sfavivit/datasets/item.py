"""One video of a list, and where its file lies."""

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

_REMEMBERED = 4096  # files looked up; thousands of rows of EPIC-KITCHENS are of one video


@dataclass(frozen=True, slots=True)
class VideoItem:
    """A video, or the part of it in [``start_seconds``, ``end_seconds``), and what is seen in it.

    ``id`` is unique in its list. ``video`` is a path or URL. ``labels``: {output of the head: name or index
    of the class}, the output of a head with a single one being ``""``; empty when nothing is known.
    ``end_seconds`` None: to the end of the video.
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
    """The folder, or the address of one, that relative paths of videos start from."""

    def __init__(self, root: str | Path) -> None:
        scheme, root = scheme_of(str(root)), str(root).removeprefix("file://")
        # A Path per row would double the time of long lists.
        self._root = root if scheme not in (None, "file") else os.path.abspath(root)  # noqa: PTH100
        self._quoted = scheme in ("http", "https")
        self._exists = lru_cache(_REMEMBERED)(os.path.exists)

    def path(self, video: str) -> str:
        """The absolute path of a video; a URL as it is."""
        if scheme_of(video):
            return video
        relative = quote(video) if self._quoted and not video.startswith("/") else video
        return os.path.join(self._root, relative)  # noqa: PTH118 - as above

    def find(self, candidates: Iterable[str]) -> str | None:
        """Absolute path of the first candidate that exists."""
        return next(filter(self._exists, map(self.path, candidates)), None)

    def find_or_first(self, candidates: list[str]) -> str:
        """As ``find``; the first candidate when none exists, so that its error says what was looked for."""
        return self.find(candidates) or self.path(candidates[0])
