"""The one pipeline: frames -> spatial features -> windows -> temporal logits -> labels and timeline.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.engines import open_models
from sfavivit.engines.base import Engine, Features, Frames, Logits
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.read_ahead import decoded_ahead
from sfavivit.repository import Catalog, HeadEntry
from sfavivit.results import (
    OutputResult,
    Recognition,
    Segment,
    Timings,
    WindowScores,
    softmax,
    top_labels,
)
from sfavivit.video import Limits, OpenSource, Source, VideoReader
from sfavivit.windows import SHORT_CLIP, TimelineBuilder, Window, complete_windows, tail_window

CHUNK_TUBELETS = 8
DEFAULT_LIMITS = Limits()
WINDOWS_PER_LENGTH = 8  # default stride: an eighth of the window; the temporal half is cheap

Progress = Callable[[float, float | None], None]
"""Called with seconds of video done, and its duration where the container tells."""


class Recognizer:
    """Answers what happens in a video. Safe to use from several threads."""

    def __init__(self, catalog: Catalog, engine: Engine, *, chunk_tubelets: int = CHUNK_TUBELETS) -> None:
        self.catalog = catalog
        self.manifest = catalog.manifest
        self.labels = catalog.labels
        self.engine = engine
        self.chunk_tubelets = chunk_tubelets

    @classmethod
    def load(
        cls,
        repository: str | Path,
        *,
        engine: str | None = None,
        threads: int | None = None,
        chunk_tubelets: int = CHUNK_TUBELETS,
    ) -> Recognizer:
        """Load and verify a model repository and start an engine of ``sfavivit.engines.ENGINES`` on it.

        ``triton://HOST:PORT`` instead of a directory uses the models of that Triton server and needs no file.

        Raises:
            RepositoryError: the repository cannot be used.
            EngineError: the engine cannot start, or its server is away.
            UsageError: an unknown engine, or a chunk of no tubelets.
        """
        if chunk_tubelets < 1:
            raise UsageError(f"chunk_tubelets must be at least 1, got {chunk_tubelets}")
        catalog, running = open_models(repository, engine, threads=threads)
        return cls(catalog, running, chunk_tubelets=chunk_tubelets)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.manifest.heads)

    def features(self, frames: Frames) -> Features:
        """uint8 [F, H, W, 3] RGB at the repository's sampling -> float32 [T, D].

        A last tubelet that is not full repeats its last frame.

        Raises:
            InvalidInputError: another shape or dtype, or no frames.
        """
        if not len(frames):
            raise InvalidInputError("features of no frames: give at least one frame")
        chunker = FeatureExtractor(self)
        return np.concatenate([*chunker.push(frames), *chunker.finish()])

    def logits(self, features: Features, head: str = "default") -> Logits:
        """float32 [T, D], 1 <= T <= T_max -> {output: float32 [C]}. T = 1 is already an answer.

        Raises:
            HeadNotFoundError: no such head.
            InvalidInputError: another shape or dtype, or values that are not finite.
        """
        dims = self.manifest.head(head).dimensions
        shape_fits = features.ndim == 2 and features.shape[1] == dims.hidden_size
        if not shape_fits or not 1 <= len(features) <= dims.max_tubelets or features.dtype != np.float32:
            raise InvalidInputError(
                f"features are {features.dtype} {list(features.shape)}; head {head!r} takes "
                f"float32 [1..{dims.max_tubelets}, {dims.hidden_size}]"
            )
        if not np.isfinite(features).all():
            raise InvalidInputError("features hold NaN or infinity; extract them again")
        return {name: value[0] for name, value in self.engine.temporal(head, features[None]).items()}

    def session(
        self,
        heads: Sequence[str] | None = None,
        *,
        stride_seconds: float | None = None,
        top_k: int = 5,
        start_seconds: float = 0.0,
    ) -> Session:
        """A new pipeline to push frames into. Arguments and errors as in ``classify``."""
        names = tuple(dict.fromkeys(heads)) if heads else self.heads
        if top_k < 1:
            raise UsageError(f"top-k must be at least 1, got {top_k}")
        return Session(
            self, {name: self._stride(name, stride_seconds) for name in names}, top_k, start_seconds
        )

    def _stride(self, head: str, stride_seconds: float | None) -> int:
        entry = self.manifest.head(head)
        length = entry.dimensions.max_tubelets
        if stride_seconds is None:
            return max(1, length // WINDOWS_PER_LENGTH)
        tubelet_seconds = entry.dimensions.tubelet_frames / self.manifest.sampling.fps
        if not tubelet_seconds / 2 <= stride_seconds < (length + 0.5) * tubelet_seconds:
            raise UsageError(
                f"a stride of {stride_seconds:g} s does not suit head {head!r}; it must be from one tubelet "
                f"({tubelet_seconds:g} s) to one window ({length * tubelet_seconds:g} s)"
            )
        return max(1, round(stride_seconds / tubelet_seconds))

    def stream(
        self, chunks: Iterable[Frames], heads: Sequence[str] | None = None, **options: Any
    ) -> Iterator[WindowScores]:
        """Window scores while frames arrive, in chunks uint8 [n, H, W, 3] of any n. As ``classify``."""
        session = self.session(heads, **options)
        for frames in chunks:
            yield from session.push(frames)
        yield from session.finish()

    def classify(
        self,
        video: Source,
        heads: Sequence[str] | None = None,
        *,
        stride_seconds: float | None = None,
        top_k: int = 5,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress | None = None,
    ) -> Recognition:
        """Actions in a video file (a path, or the bytes of one). Decoding overlaps inference.

        ``heads``: which heads to ask (default: all; they share one spatial pass). ``stride_seconds``: from
        window to window, at most a window (default: an eighth of it). ``start_seconds``, ``end_seconds``: the
        part of the video to look at; times in the answer stay those of the whole video.

        Raises:
            VideoError: the video gives no frames, or breaks a limit.
            InvalidInputError: the video ends before ``start_seconds``.
            HeadNotFoundError, UsageError: no such head; a stride, top-k or part that cannot be.
            EngineError: the engine failed.
        """
        start = time.perf_counter()
        session = self.session(heads, stride_seconds=stride_seconds, top_k=top_k, start_seconds=start_seconds)
        with self.reader(video, limits, start_seconds=start_seconds, end_seconds=end_seconds) as reader:
            with closing(decoded_ahead(reader)) as chunks:
                for chunk in chunks:
                    session.push(chunk)
                    if progress:
                        progress(session.seconds, reader.container_duration_seconds)
            session.finish()
            timings = Timings(
                reader.decode_seconds,
                session.spatial_seconds,
                session.temporal_seconds,
                time.perf_counter() - start,
            )
            return session.recognition(_video_name(video), timings, warning=reader.damage)

    def reader(
        self,
        video: Source,
        limits: Limits = DEFAULT_LIMITS,
        *,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
    ) -> VideoReader:
        """Frames of ``video`` as the model takes them, a chunk an engine call. Raises as ``classify``."""
        frames = self.chunk_tubelets * self.manifest.dimensions.tubelet_frames
        return VideoReader(
            video,
            self.manifest.sampling,
            chunk_frames=frames,
            limits=limits,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )


def _video_name(video: Source) -> str:
    if isinstance(video, OpenSource):
        return video.name
    return "<bytes>" if isinstance(video, bytes) else str(video)


class FeatureExtractor:
    """Frames in any portions -> features, each tubelet computed once, in engine calls of one fixed size."""

    def __init__(self, recognizer: Recognizer) -> None:
        dims = recognizer.manifest.dimensions
        self._engine = recognizer.engine
        self._tubelet_frames = dims.tubelet_frames
        side = dims.image_size
        self._chunk = np.zeros((recognizer.chunk_tubelets * dims.tubelet_frames, side, side, 3), np.uint8)
        self._filled = 0
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
        features: Features = self._engine.spatial(self._chunk[None])[0]
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

    def push_features(self, features: Features) -> list[WindowScores]:
        """Take features float32 [n, D] that were extracted before, instead of frames. As ``push``."""
        hidden_size = self._features.shape[1]
        if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != hidden_size:
            raise InvalidInputError(
                f"features are {features.dtype} {list(features.shape)}; the model takes "
                f"float32 [n, {hidden_size}]"
            )
        self.frames_used += len(features) * self._tubelet_frames
        return self._advance(features)

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
            features = SHORT_CLIP[head.entry.short_clip](features, head.entry.dimensions.max_tubelets)
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
