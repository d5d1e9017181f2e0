"""Windows over the features of one video, scored as the features arrive.

``Session`` is the second half of the one pipeline that files, streams and the service share:

    frames
        │  FeatureExtractor: chunks of exactly chunk_tubelets tubelets; the last is padded
    features, each tubelet once
        │  Session: keeps the last window's worth; every head has its own windows over the same features
    WindowScores ──► mean logits of the video, TimelineBuilder
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sfavivit.engines.model import LoadedModel, TimedEngine
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.features.extractor import FeatureChunk, FeatureExtractor
from sfavivit.inference.options import DEFAULT_OPTIONS, ClassifyOptions
from sfavivit.inference.results import (
    OutputResult,
    Recognition,
    Segment,
    Timings,
    WindowScores,
    softmax,
    top_labels,
)
from sfavivit.inference.timeline import Scores, TimelineBuilder
from sfavivit.inference.windows import PADDING, Window, complete_windows, default_stride, tail_window
from sfavivit.repository.manifest import HeadEntry
from sfavivit.types import Features, Frames, Logits

# Short windows in an engine call, which reads all weights whatever its size. Always these, first to last, so
# that results do not depend on how features arrive.
SHORT_WINDOW_BATCH = 8

OnScores = Callable[[str, str, int, Scores], None]
"""Called with a head, an output, the number of a tubelet, and the class scores [n, C] of those from it on."""


@dataclass
class _HeadState:
    """Progress of one head: its windows so far, their timelines and the sum of their logits.

    ``windows``: full ones, for the answers as they come and the labels of the video. ``short_windows``: those
    of other lengths, for the timeline alone.
    """

    entry: HeadEntry
    stride: int
    timelines: dict[str, TimelineBuilder]
    logit_sums: dict[str, NDArray[np.float64]]
    short_windows: dict[int, int]
    windows: int = 0

    @property
    def length(self) -> int:
        """Tubelets per window."""
        return self.entry.dimensions.max_tubelets

    @property
    def kept(self) -> int:
        """Tubelets that windows still to be scored may begin with, and those in a window."""
        short = (length + SHORT_WINDOW_BATCH * default_stride(length) for length in self.short_windows)
        return max(self.length, *short, 0)


class Session:
    """Windows of one video, scored as its features arrive. Not safe for several threads.

    Args:
        model: the model that the features are of.
        options: heads, stride and top-k; no views.
        start_seconds: time of the first feature in the video.
        on_scores: called with what the timeline is made of.

    Raises:
        HeadNotFoundError, UsageError: options that do not fit the model, or views.
    """

    def __init__(
        self,
        model: LoadedModel,
        options: ClassifyOptions = DEFAULT_OPTIONS,
        start_seconds: float = 0.0,
        on_scores: OnScores | None = None,
    ) -> None:
        if options.views:
            raise UsageError(f"views ({options.views}) need a whole video; leave them out for a stream")
        manifest = model.manifest
        self._timed = TimedEngine(model.engine)
        self._model = model.with_engine(self._timed)
        self._top_k = options.top_k
        self._start_seconds = start_seconds
        self._tubelet_frames = manifest.dimensions.tubelet_frames
        self._fps = manifest.sampling.fps
        self._on_scores = on_scores
        self._heads = {name: self._start(name, stride) for name, stride in options.resolve(manifest).items()}
        self._kept = max(head.kept for head in self._heads.values())
        self._features = np.zeros((0, manifest.dimensions.hidden_size), np.float32)
        self.tubelets = 0
        self.frames_used = 0

    def _start(self, name: str, stride: int) -> _HeadState:
        entry = self._model.manifest.head(name)
        lengths = entry.decoding.window_tubelets
        timelines = {
            output: TimelineBuilder(
                classes,
                lengths,
                entry.decoding.switch_cost,
                partial(self._on_scores, name, output) if self._on_scores else None,
            )
            for output, classes in entry.outputs.items()
        }
        sums = {output: np.zeros(classes) for output, classes in entry.outputs.items()}
        short = {length: 0 for length in lengths if length != entry.dimensions.max_tubelets}
        return _HeadState(entry, stride, timelines, sums, short)

    @property
    def duration_seconds(self) -> float:
        """Seconds of video whose features have arrived."""
        return self.frames_used / self._fps

    @property
    def temporal_seconds(self) -> float:
        """Seconds spent in the temporal engine."""
        return self._timed.timer.seconds["temporal"]

    def add_features(self, chunk: FeatureChunk) -> list[WindowScores]:
        """Add the next features and return the windows that they completed.

        Raises:
            InvalidInputError: not float32 [n, D] of the model's D.
            EngineError: the engine failed.
        """
        features, hidden_size = chunk.features, self._features.shape[1]
        if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != hidden_size:
            raise InvalidInputError(
                f"features are {features.dtype} {list(features.shape)}; the model takes "
                f"float32 [n, {hidden_size}]"
            )
        self.frames_used += chunk.frames
        self.tubelets += len(features)
        kept = self._features[max(0, len(self._features) - self._kept) :]
        self._features = np.concatenate([kept, features])
        for name, head in self._heads.items():
            for length, count in head.short_windows.items():
                windows = complete_windows(count, self.tubelets, length, default_stride(length))
                for first in range(0, len(windows) - SHORT_WINDOW_BATCH + 1, SHORT_WINDOW_BATCH):
                    self._score_short(name, head, length, windows[first : first + SHORT_WINDOW_BATCH])
        return [
            self._score(name, head, window)
            for name, head in self._heads.items()
            for window in complete_windows(head.windows, self.tubelets, head.length, head.stride)
        ]

    def set_frame_count(self, frames_used: int) -> None:
        """Correct the number of frames behind the features: the last tubelet need not be full.

        Raises:
            InvalidInputError: another number of tubelets than has arrived.
        """
        if frames_used < 0 or -(-frames_used // self._tubelet_frames) != self.tubelets:
            raise InvalidInputError(f"{frames_used} frames do not make {self.tubelets} tubelets")
        self.frames_used = frames_used

    def partial_results(self, *, before_first_window: bool = False) -> list[WindowScores]:
        """Score the latest window of each head as far as it has arrived. It counts for nothing else.

        ``before_first_window``: only of the heads that have not completed a window yet.
        """
        scores = []
        for name, head in self._heads.items():
            if self.tubelets and not (before_first_window and head.windows):
                window = Window(max(0, self.tubelets - head.length), self.tubelets)
                scores.append(self._window_scores(name, window, self._logits(name, head, window)))
        return scores

    def finish(self) -> list[WindowScores]:
        """Return the windows that were still open; no features may follow."""
        for name, head in self._heads.items():
            for length, count in head.short_windows.items():
                stride = default_stride(length)
                if windows := complete_windows(count, self.tubelets, length, stride):
                    self._score_short(name, head, length, windows)
                if tail := tail_window(self.tubelets, length, stride):
                    self._score_short(name, head, length, [tail])
        return [
            self._score(name, head, tail)
            for name, head in self._heads.items()
            if (tail := tail_window(self.tubelets, head.length, head.stride))
        ]

    def _score(self, name: str, head: _HeadState, window: Window) -> WindowScores:
        """Score a window and count it for the video."""
        logits = self._logits(name, head, window)
        head.windows += 1
        for output, values in logits.items():
            if head.length in head.entry.decoding.window_tubelets:
                head.timelines[output].add(head.length, window, softmax(values))
            head.logit_sums[output] += values
        return self._window_scores(name, window, logits)

    def _score_short(self, name: str, head: _HeadState, length: int, windows: list[Window]) -> None:
        """Score windows for the timeline, at the first temporal positions whatever the head's padding."""
        head.short_windows[length] += len(windows)
        features = np.stack([self._in(window) for window in windows])
        for output, logits in self._model.batch_logits(features, name).items():
            for window, probabilities in zip(windows, softmax(logits), strict=True):
                head.timelines[output].add(length, window, probabilities)

    def _logits(self, name: str, head: _HeadState, window: Window) -> Logits:
        return window_logits(self._model, name, self._in(window))

    def _in(self, window: Window) -> Features:
        """Return the features in a window."""
        first = self.tubelets - len(self._features)
        return self._features[window.start - first : window.stop - first]

    def _window_scores(self, name: str, window: Window, logits: Logits) -> WindowScores:
        labels = {
            output: top_labels(softmax(values), self._model.labels[name][output], self._top_k)
            for output, values in logits.items()
        }
        seconds = (self._time(window.start), self._time(window.stop))
        return WindowScores(name, *seconds, self.frames_used, logits, labels)

    def _time(self, tubelet: int) -> float:
        return self._start_seconds + min(tubelet * self._tubelet_frames, self.frames_used) / self._fps

    def result(self, video: str, timings: Timings, warning: str | None = None) -> Recognition:
        """Return the answer for the whole video, after ``finish``.

        Raises:
            InvalidInputError: there were no features.
        """
        if not self.frames_used:
            raise InvalidInputError(f"{video}: no frames to answer from; push at least one")
        heads = {
            name: {output: self._result(name, head, output) for output in head.entry.outputs}
            for name, head in self._heads.items()
        }
        return Recognition(video, self.duration_seconds, self.frames_used, heads, timings, warning)

    def _result(self, name: str, head: _HeadState, output: str) -> OutputResult:
        labels = self._model.labels[name][output]
        logits = head.logit_sums[output] / head.windows
        timeline = tuple(
            Segment(self._time(run.start), self._time(run.stop), labels[run.label], run.confidence)
            for run in head.timelines[output].finish()
        )
        top = top_labels(softmax(logits), labels, self._top_k)
        return OutputResult(top, timeline, logits.astype(np.float32))


def window_logits(model: LoadedModel, head: str, features: Features) -> Logits:
    """Compute logits of one window float32 [n, D]; one shorter than the head's is padded as the head says."""
    entry = model.manifest.head(head)
    length = entry.dimensions.max_tubelets
    if len(features) < length:
        features = PADDING[entry.padding](features, length)
    return model.logits(features, head)


class FrameStream:
    """Frames in, window scores out: a ``FeatureExtractor`` in front of a ``Session``.

    Arguments and errors as ``Session``.
    """

    def __init__(
        self, model: LoadedModel, options: ClassifyOptions = DEFAULT_OPTIONS, start_seconds: float = 0.0
    ) -> None:
        self.extractor = FeatureExtractor(model)
        self.session = Session(model, options, start_seconds)

    def push(self, frames: Frames) -> list[WindowScores]:
        """Add frames uint8 [n, H, W, 3], any n, and return the windows that they completed.

        Raises:
            InvalidInputError: another shape or dtype.
            EngineError: the engine failed.
        """
        return self._add(self.extractor.push(frames))

    def finish(self) -> list[WindowScores]:
        """Return the windows that were still open; no frames may follow."""
        return [*self._add(self.extractor.finish()), *self.session.finish()]

    def _add(self, chunks: list[FeatureChunk]) -> list[WindowScores]:
        return [scores for chunk in chunks for scores in self.session.add_features(chunk)]
