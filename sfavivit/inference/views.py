"""Multi-view testing: T clips x S crops of a video, their logits averaged.

Every crop's tubelets are computed once, whatever number of clips they are in: 4 x 3 views of a video that is
one window long cost three spatial passes, not twelve.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from sfavivit.config import CENTER, Crop
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.inference.results import OutputResult, Recognition, Timings, WindowScores, softmax, top_labels
from sfavivit.inference.windows import PADDING, view_windows
from sfavivit.types import Features, Logits

if TYPE_CHECKING:
    from sfavivit.features.reader import FeatureChunk
    from sfavivit.inference.recognizer import Recognizer

MAX_CLIPS = 100
CROPS: dict[int, tuple[Crop, ...]] = {
    1: CENTER,
    3: (Crop(along=0.0), Crop(), Crop(along=1.0)),  # both ends of the longer side, and its middle
}


@dataclass(frozen=True)
class Views:
    """``clips`` in time x ``crops`` in space; 4 x 3 is what the literature reports."""

    clips: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.clips <= MAX_CLIPS or self.crops not in CROPS:
            raise UsageError(
                f"views {self.clips}x{self.crops} cannot be: 1 to {MAX_CLIPS} clips, and 1 or 3 crops"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """``"4x3"`` -> four clips, three crops. Raises ``UsageError`` for anything else."""
        match = re.fullmatch(r"(\d{1,3})x(\d)", text)
        if not match:
            raise UsageError(f"views {text!r} must be CLIPSxCROPS, for example 4x3")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"


class ViewSession:
    """One video's features, crop by crop, and the mean of its views. Not safe for several threads.

    It keeps all features of the video until the end, since where the clips lie depends on its length.
    """

    def __init__(self, recognizer: Recognizer, views: Views, heads: Sequence[str], top_k: int) -> None:
        self._recognizer = recognizer
        self._views = views
        self._heads = heads
        self._top_k = top_k
        self._features: list[list[Features]] = [[] for _ in range(views.crops)]
        self._results: dict[str, dict[str, OutputResult]] = {}
        self._frames_used = 0
        self.temporal_seconds = 0.0

    def take(self, chunk: FeatureChunk) -> list[WindowScores]:
        """The next features of a crop. No view is complete before ``finish``."""
        self._features[chunk.crop].append(chunk.features)
        if chunk.crop == 0:
            self._frames_used += chunk.frames
        return []

    def finish(self) -> list[WindowScores]:
        """No more features: compute all views. Their clips count only together, so none is returned.

        Raises:
            InvalidInputError: there were no features.
        """
        if not all(self._features):
            raise InvalidInputError("views of no frames: there must be at least one")
        start = time.perf_counter()
        crops = [np.concatenate(parts) for parts in self._features]
        self._results = {head: self._result(head, crops) for head in self._heads}
        self.temporal_seconds = time.perf_counter() - start
        return []

    def recognition(self, video: str, timings: Timings, warning: str | None = None) -> Recognition:
        """The mean over all views, after ``finish``; no timeline, since views do not cover a video."""
        seconds = self._frames_used / self._recognizer.manifest.sampling.fps
        return Recognition(video, seconds, self._frames_used, self._results, timings, warning)

    def _result(self, head: str, crops: list[Features]) -> dict[str, OutputResult]:
        clips = [logits for features in crops for logits in self._clips(head, features)]
        result = {}
        for output, labels in self._recognizer.labels[head].items():
            mean = np.mean([clip[output] for clip in clips], axis=0, dtype=np.float64)
            result[output] = OutputResult(
                top_labels(softmax(mean), labels, self._top_k), (), mean.astype(np.float32)
            )
        return result

    def _clips(self, head: str, features: Features) -> list[Logits]:
        """Logits of every clip of one crop; clips that coincide are computed once."""
        entry = self._recognizer.manifest.head(head)
        length = entry.dimensions.max_tubelets
        windows = view_windows(len(features), length, self._views.clips)
        logits = {}
        for window in dict.fromkeys(windows):
            clip = features[window.start : window.stop]
            if len(clip) < length:
                clip = PADDING[entry.padding](clip, length)
            logits[window] = self._recognizer.logits(clip, head)
        return [logits[window] for window in windows]
