"""One video on its way: frames -> spatial features -> windows -> temporal logits -> labels and timeline.

``Session`` is the pipeline; everything else feeds it. Frames are gathered into chunks of a fixed size before
they reach the spatial engine, so the engine sees the same calls however the frames arrived, and a stream
and a file give the same numbers to the last bit:

    push(any number of frames)
        │  chunks of exactly chunk_tubelets tubelets (the last one padded, its padding dropped)
    engine.spatial ──► features, each tubelet once; the last window's worth is kept
        │  every head: its own windows over the same features, one call each
    engine.temporal ──► WindowScores ──► mean logits of the video, TimelineBuilder
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError
from sfavivit.inference.results import (
    OutputResult,
    Recognition,
    Segment,
    Timings,
    WindowScores,
    softmax,
    top_labels,
)
from sfavivit.inference.windows import PADDING, TimelineBuilder, Window, complete_windows, tail_window
from sfavivit.repository.manifest import HeadEntry
from sfavivit.types import Features, Frames, Logits

if TYPE_CHECKING:
    from sfavivit.features.reader import FeatureChunk
    from sfavivit.inference.recognizer import Recognizer


class FeatureExtractor:
    """Frames in any portions -> features, each tubelet computed once, in engine calls of one fixed size.

    A chunk in which nothing moves, all its tubelets being the one before it to the last bit, is not computed:
    a feature is a function of its tubelet alone. Slides, screens and empty rooms are mostly such chunks.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        dims = recognizer.manifest.dimensions
        self._engine = recognizer.engine
        self._tubelet_frames = dims.tubelet_frames
        side = dims.image_size
        self._chunk = np.zeros((recognizer.chunk_frames, side, side, 3), np.uint8)
        self._filled = 0
        self._last: tuple[Frames, Features] | None = None  # tubelet and its feature
        self.seconds = 0.0

    def push(self, frames: Frames) -> list[Features]:
        """Features float32 [n, D] of every chunk that ``frames`` completes.

        Raises:
            InvalidInputError: not uint8 [n, H, W, 3] of the model's size.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._chunk.shape[1:]:
            raise InvalidInputError(
                f"frames are {frames.dtype} {list(frames.shape)}; the model takes "
                f"uint8 [n, {', '.join(map(str, self._chunk.shape[1:]))}]"
            )
        out = []
        while len(frames):
            taken = min(len(frames), len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + taken] = frames[:taken]
            self._filled += taken
            frames = frames[taken:]
            if self._filled == len(self._chunk):
                out.append(self._run())
        return out

    def finish(self) -> list[Features]:
        """Features of the frames still waiting; the last frame fills up its tubelet."""
        if not self._filled:
            return []
        tubelets = -(-self._filled // self._tubelet_frames)
        self._chunk[self._filled :] = self._chunk[self._filled - 1]
        return [self._run()[:tubelets]]

    def _run(self) -> Features:
        start = time.perf_counter()
        tubelets = self._chunk.reshape(-1, self._tubelet_frames, *self._chunk.shape[1:])
        if self._last and all(np.array_equal(tubelet, self._last[0]) for tubelet in tubelets):
            features = np.tile(self._last[1], (len(tubelets), 1))
        else:
            features = self._engine.spatial(self._chunk[None])[0]
            self._last = tubelets[-1].copy(), features[-1]
        self.seconds += time.perf_counter() - start
        self._filled = 0
        return features


@dataclass
class _HeadState:
    """Where one head stands: how many windows it has answered and what they add up to."""

    entry: HeadEntry
    stride: int
    timelines: dict[str, TimelineBuilder]
    logit_sums: dict[str, NDArray[np.float64]]
    windows: int = 0


class Session:
    """One video on its way through the pipeline. Not safe for several threads; make one for each video."""

    def __init__(
        self, recognizer: Recognizer, strides: dict[str, int], top_k: int, start_seconds: float = 0.0
    ) -> None:
        self._recognizer = recognizer
        self._extractor = FeatureExtractor(recognizer)
        self._top_k = top_k
        self._start_seconds = start_seconds
        dims = recognizer.manifest.dimensions
        self._tubelet_frames = dims.tubelet_frames
        self._fps = recognizer.manifest.sampling.fps
        self._heads = {name: self._start(name, stride) for name, stride in strides.items()}
        self._kept = max(head.entry.dimensions.max_tubelets for head in self._heads.values())
        self._features = np.zeros((0, dims.hidden_size), np.float32)
        self._tubelets = 0
        self.frames_used = 0
        self.temporal_seconds = 0.0

    def _start(self, name: str, stride: int) -> _HeadState:
        entry = self._recognizer.manifest.head(name)
        timelines = {output: TimelineBuilder(classes) for output, classes in entry.outputs.items()}
        sums = {output: np.zeros(classes) for output, classes in entry.outputs.items()}
        return _HeadState(entry, stride, timelines, sums)

    @property
    def heads(self) -> tuple[str, ...]:
        """Who answers."""
        return tuple(self._heads)

    @property
    def seconds(self) -> float:
        """Length of what has been pushed."""
        return self.frames_used / self._fps

    @property
    def tubelets(self) -> int:
        """How many have been through the spatial engine."""
        return self._tubelets

    @property
    def spatial_seconds(self) -> float:
        return self._extractor.seconds

    def push(self, frames: Frames) -> list[WindowScores]:
        """Take frames uint8 [n, H, W, 3], any n; returns the windows they completed.

        Raises:
            InvalidInputError: another shape or dtype.
            EngineError: the engine failed.
        """
        chunks = self._extractor.push(frames)
        self.frames_used += len(frames)
        return [scores for features in chunks for scores in self._advance(features)]

    def push_features(self, features: Features, frames: int | None = None) -> list[WindowScores]:
        """Take features float32 [n, D] that were extracted before, instead of frames. As ``push``.

        ``frames``: how many they were made of, when the last tubelet was not full.
        """
        hidden_size = self._features.shape[1]
        if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != hidden_size:
            raise InvalidInputError(
                f"features are {features.dtype} {list(features.shape)}; the model takes "
                f"float32 [n, {hidden_size}]"
            )
        self.frames_used += len(features) * self._tubelet_frames if frames is None else frames
        return self._advance(features)

    def take(self, chunk: FeatureChunk) -> list[WindowScores]:
        """The next features of a ``FeatureSource``. As ``push``."""
        return self.push_features(chunk.features, chunk.frames)

    def trim(self, frames_used: int) -> None:
        """Say how many frames the pushed features were made of: the last tubelet need not have been full.

        Raises:
            InvalidInputError: another number of tubelets than was pushed.
        """
        if -(-frames_used // self._tubelet_frames) != self._tubelets:
            raise InvalidInputError(f"{frames_used} frames do not make {self._tubelets} tubelets")
        self.frames_used = frames_used

    def provisional(self, *, until_first: bool = False) -> list[WindowScores]:
        """What heads make of the latest window as far as it has arrived. It counts for nothing else.

        ``until_first``: only of the heads that have not answered a window yet.
        """
        scores = []
        for name, head in self._heads.items():
            if self._tubelets and not (until_first and head.windows):
                window = Window(max(0, self._tubelets - head.entry.dimensions.max_tubelets), self._tubelets)
                scores.append(self._window_scores(name, window, self._logits(name, head, window)))
        return scores

    def finish(self) -> list[WindowScores]:
        """No more frames; returns the windows that were still open."""
        scores = [scores for features in self._extractor.finish() for scores in self._advance(features)]
        for name, head in self._heads.items():
            tail = tail_window(self._tubelets, head.entry.dimensions.max_tubelets, head.stride)
            if tail:
                scores.append(self._score(name, head, tail))
        return scores

    def _advance(self, features: Features) -> list[WindowScores]:
        """Add a chunk's features and answer the windows that they complete."""
        self._tubelets += len(features)
        kept = self._features[max(0, len(self._features) - self._kept) :]
        self._features = np.concatenate([kept, features])
        return [
            self._score(name, head, window)
            for name, head in self._heads.items()
            for window in complete_windows(
                head.windows, self._tubelets, head.entry.dimensions.max_tubelets, head.stride
            )
        ]

    def _score(self, name: str, head: _HeadState, window: Window) -> WindowScores:
        """Answer a window and count it for the video."""
        logits = self._logits(name, head, window)
        head.windows += 1
        for output, values in logits.items():
            head.timelines[output].add(window, softmax(values))
            head.logit_sums[output] += values
        return self._window_scores(name, window, logits)

    def _logits(self, name: str, head: _HeadState, window: Window) -> Logits:
        first = self._tubelets - len(self._features)
        features = self._features[window.start - first : window.stop - first]
        if len(features) < head.entry.dimensions.max_tubelets:
            features = PADDING[head.entry.padding](features, head.entry.dimensions.max_tubelets)
        start = time.perf_counter()
        logits = self._recognizer.logits(features, name)
        self.temporal_seconds += time.perf_counter() - start
        return logits

    def _window_scores(self, name: str, window: Window, logits: Logits) -> WindowScores:
        labels = {
            output: top_labels(softmax(values), self._recognizer.labels[name][output], self._top_k)
            for output, values in logits.items()
        }
        seconds = (self._time(window.start), self._time(window.stop))
        frames_used = min(self._tubelets * self._tubelet_frames, self.frames_used)
        return WindowScores(name, *seconds, frames_used, logits, labels)

    def _time(self, tubelet: int) -> float:
        return self._start_seconds + min(tubelet * self._tubelet_frames, self.frames_used) / self._fps

    def recognition(self, video: str, timings: Timings, warning: str | None = None) -> Recognition:
        """The answer for the whole video, after ``finish``.

        Raises:
            InvalidInputError: no frame was ever pushed.
        """
        if not self.frames_used:
            raise InvalidInputError(f"{video}: no frames to answer from; push at least one")
        heads = {
            name: {output: self._result(name, head, output) for output in head.entry.outputs}
            for name, head in self._heads.items()
        }
        return Recognition(video, self.seconds, self.frames_used, heads, timings, warning)

    def _result(self, name: str, head: _HeadState, output: str) -> OutputResult:
        labels = self._recognizer.labels[name][output]
        logits = head.logit_sums[output] / head.windows
        timeline = tuple(
            Segment(self._time(run.start), self._time(run.stop), labels[run.label], run.confidence)
            for run in head.timelines[output].finish()
        )
        top = top_labels(softmax(logits), labels, self._top_k)
        return OutputResult(top, timeline, logits.astype(np.float32))
