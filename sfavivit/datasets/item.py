"""A video of a list."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sfavivit.datasets.fetch import open_video
from sfavivit.errors import UsageError, VideoNotFoundError
from sfavivit.video.limits import Limits
from sfavivit.video.source import Source, VideoSegment


@dataclass(frozen=True, slots=True)
class VideoItem:
    """A video of a list, or its segment [``start_seconds``, ``end_seconds``), and its labels.

    Attributes:
        id: unique in the list.
        video: path or URL.
        labels: {output of a head: name or index of the true class}; a head's only output is called ``""``.
        start_seconds: start of the segment.
        end_seconds: end of the segment; None for the end of the video.
        looked_for: files and folders that were looked at for the video, if none of them was there.
    """

    id: str
    video: str
    labels: dict[str, str | int]
    start_seconds: float = 0.0
    end_seconds: float | None = None
    looked_for: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            VideoSegment(self.video, self.start_seconds, self.end_seconds)
        except UsageError as error:
            raise ValueError(str(error)) from None

    def open(self, limit_bytes: int, stall_seconds: float = Limits.stall_seconds) -> Source:
        """Return the video, downloaded if it is at a URL.

        Raises:
            VideoNotFoundError: it was not where its dataset has its videos.
            VideoError, UsageError: as :func:`sfavivit.datasets.fetch.fetched`.
        """
        if self.looked_for and not os.path.exists(self.video):  # noqa: PTH110 - never raises
            raise VideoNotFoundError(f"{self.video!r}: no such file; {self.looked_for}")
        return open_video(self.video, limit_bytes, stall_seconds)
