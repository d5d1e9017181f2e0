"""Multi-view testing: T clips x S crops of a video, their logits averaged.

The tubelets of each crop are computed once, whatever number of clips they are in: 4 x 3 views of a video that
is one window long cost three spatial passes, not twelve.
"""

from __future__ import annotations

import numpy as np

from sfavivit.engines.model import LoadedModel, TimedEngine
from sfavivit.errors import InvalidInputError
from sfavivit.features.extractor import FeatureChunk
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.inference.results import OutputResult, Recognition, Timings, WindowScores, softmax, top_labels
from sfavivit.inference.streaming import window_logits
from sfavivit.inference.windows import view_windows
from sfavivit.types import Features, Logits


class ViewSession:
    """Views of one video, averaged once all of its features have arrived. Not safe for several threads.

    It keeps all features of the video until the end, since where the clips lie depends on its length.

    Raises:
        HeadNotFoundError, UsageError: options that do not fit the model.
    """

    def __init__(self, model: LoadedModel, views: Views, options: ClassifyOptions) -> None:
        self._timed = TimedEngine(model.engine)
        self._model = model.with_engine(self._timed)
        self._views = views
        self._heads = tuple(options.resolve(model.manifest))
        self._top_k = options.top_k
        self._features: list[list[Features]] = [[] for _ in range(views.crops)]
        self._results: dict[str, dict[str, OutputResult]] = {}
        self._frames_used = 0

    @property
    def temporal_seconds(self) -> float:
        """Seconds spent in the temporal engine."""
        return self._timed.timer.seconds["temporal"]

    def add_features(self, chunk: FeatureChunk) -> list[WindowScores]:
        """Add the next features of a crop. No view is complete before ``finish``."""
        self._features[chunk.crop].append(chunk.features)
        if chunk.crop == 0:
            self._frames_used += chunk.frames
        return []

    def finish(self) -> list[WindowScores]:
        """Score all views. Their clips count only together, so none is returned.

        Raises:
            InvalidInputError: there were no features.
        """
        if not all(self._features):
            raise InvalidInputError("views of no frames: there must be at least one")
        crops = [np.concatenate(parts) for parts in self._features]
        self._results = {head: self._result(head, crops) for head in self._heads}
        return []

    def result(self, video: str, timings: Timings, warning: str | None = None) -> Recognition:
        """Return the mean over all views, after ``finish``; no timeline, since views do not cover a video."""
        duration_seconds = self._frames_used / self._model.manifest.sampling.fps
        return Recognition(video, duration_seconds, self._frames_used, self._results, timings, warning)

    def _result(self, head: str, crops: list[Features]) -> dict[str, OutputResult]:
        clips = [logits for features in crops for logits in self._clips(head, features)]
        result = {}
        for output, labels in self._model.labels[head].items():
            mean = np.stack([clip[output] for clip in clips]).astype(np.float64).mean(axis=0)
            top = top_labels(softmax(mean), labels, self._top_k)
            result[output] = OutputResult(top, (), mean.astype(np.float32))
        return result

    def _clips(self, head: str, features: Features) -> list[Logits]:
        """Logits of every clip of one crop; clips that coincide are computed once."""
        length = self._model.manifest.head(head).dimensions.max_tubelets
        windows = view_windows(len(features), length, self._views.clips)
        logits = {
            window: window_logits(self._model, head, features[window.start : window.stop])
            for window in dict.fromkeys(windows)
        }
        return [logits[window] for window in windows]
