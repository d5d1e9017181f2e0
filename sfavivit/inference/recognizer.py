"""The front of the library: load a repository, and answer what happens in videos and streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfavivit.config import CENTER, ModelDimensions
from sfavivit.engines import open_models
from sfavivit.engines.base import Engine
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.features.reader import FeatureSource
from sfavivit.features.store import FeatureStore
from sfavivit.inference.results import Recognition, Timings, WindowScores
from sfavivit.inference.streaming import FeatureExtractor, Session
from sfavivit.inference.views import CROPS, Views, ViewSession
from sfavivit.repository.manifest import Catalog
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.reader import Limits, VideoReader
from sfavivit.video.source import Source, VideoSegment

CHUNK_TUBELETS, CHUNK_ROWS = 8, 800
"""Of an engine call, at most: what costs least CPU time, of the demo model (65 rows a tubelet) and of size B
(197; 8 tubelets leave the cache: 0.26 CPU seconds each instead of 0.24 with 4, int8)."""
DEFAULT_LIMITS = Limits()
WINDOWS_PER_LENGTH = 8  # default stride: an eighth of the window; the temporal half is cheap

Progress = Callable[[float, float | None], None]
"""Called with seconds of video done, and its duration where the container tells."""
OnWindow = Callable[[WindowScores], None]


def default_chunk_tubelets(dims: ModelDimensions) -> int:
    """Of an engine call."""
    rows = 1 + dims.patches
    return min(CHUNK_TUBELETS, max(1, CHUNK_ROWS // rows))


class Recognizer:
    """Answers what happens in a video. Safe to use from several threads."""

    def __init__(self, catalog: Catalog, engine: Engine, *, chunk_tubelets: int | None = None) -> None:
        self.catalog = catalog
        self.manifest = catalog.manifest
        self.labels = catalog.labels
        self.engine = engine
        self.chunk_tubelets = chunk_tubelets or default_chunk_tubelets(self.manifest.dimensions)

    @classmethod
    def load(
        cls,
        repository: str | Path,
        *,
        engine: str | None = None,
        threads: int | None = None,
        chunk_tubelets: int | None = None,
    ) -> Recognizer:
        """Load and verify a model repository and start an engine of ``sfavivit.engines.ENGINES`` on it.

        ``triton://HOST:PORT`` instead of a directory uses the models of that Triton server and needs no file.
        ``chunk_tubelets``: of an engine call (default: as many as suit the model's size).

        Raises:
            RepositoryError: the repository cannot be used.
            EngineError: the engine cannot start, or its server is away.
            UsageError: an unknown engine, or a chunk of no tubelets.
        """
        if chunk_tubelets is not None and chunk_tubelets < 1:
            raise UsageError(f"chunk_tubelets must be at least 1, got {chunk_tubelets}")
        catalog, running = open_models(repository, engine, threads=threads)
        return cls(catalog, running, chunk_tubelets=chunk_tubelets)

    @property
    def chunk_frames(self) -> int:
        """Of an engine call."""
        return self.chunk_tubelets * self.manifest.dimensions.tubelet_frames

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
        views: Views | None = None,
        store: FeatureStore | None = None,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress | None = None,
        on_window: OnWindow | None = None,
    ) -> Recognition:
        """Actions in a video file (a path, or the bytes of one). Decoding overlaps inference.

        ``heads``: which heads to ask (default: all; they share one spatial pass). ``stride_seconds``: from
        window to window, at most a window (default: an eighth of it). ``start_seconds``, ``end_seconds``: the
        part of the video to look at; times in the answer stay those of the whole video. ``views``: the mean
        of clips and crops instead of a timeline. ``store``: take features from there, and keep them there.
        ``on_window``: called with the scores of each window.

        Raises:
            VideoError: the video gives no frames, or breaks a limit.
            InvalidInputError: the video ends before ``start_seconds``.
            HeadNotFoundError, UsageError: no such head; a stride, top-k or part that cannot be.
            FeatureStoreError: the store cannot be written.
            EngineError: the engine failed.
        """
        VideoSegment(video, start_seconds, end_seconds)
        self.session(heads, stride_seconds=stride_seconds, top_k=top_k)  # wrong options end here
        source = self.source(
            video, limits, start_seconds=start_seconds, end_seconds=end_seconds, views=views, store=store
        )
        with source:
            return self.recognize(
                source,
                heads,
                stride_seconds=stride_seconds,
                top_k=top_k,
                views=views,
                progress=progress,
                on_window=on_window,
            )

    def source(
        self,
        video: Source,
        limits: Limits = DEFAULT_LIMITS,
        *,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        views: Views | None = None,
        store: FeatureStore | None = None,
    ) -> FeatureSource:
        """The features of a video, for ``recognize``: its decoding begins at once. Arguments as ``classify``.

        Close it. What is wrong with the video is raised when it is used.
        """
        return FeatureSource(
            self,
            video,
            limits,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            crops=CROPS[views.crops] if views else CENTER,
            store=store,
        )

    def recognize(
        self,
        source: FeatureSource,
        heads: Sequence[str] | None = None,
        *,
        stride_seconds: float | None = None,
        top_k: int = 5,
        views: Views | None = None,
        progress: Progress | None = None,
        on_window: OnWindow | None = None,
    ) -> Recognition:
        """Actions in the video that ``source`` was made of, with the same ``views``. As ``classify``."""
        start = time.perf_counter()
        session = self.session(
            heads, stride_seconds=stride_seconds, top_k=top_k, start_seconds=source.start_seconds
        )
        answering = ViewSession(self, views, session.heads, top_k) if views else session
        for chunk in source:
            _tell(on_window, answering.take(chunk))
            if progress:
                seconds = source.frames_used / self.manifest.sampling.fps
                progress(seconds, source.container_duration_seconds)
        _tell(on_window, answering.finish())
        timings = Timings(
            source.decode_seconds,
            source.spatial_seconds,
            answering.temporal_seconds,
            time.perf_counter() - start,
        )
        return answering.recognition(source.name, timings, source.warning)

    def reader(
        self,
        video: Source,
        limits: Limits = DEFAULT_LIMITS,
        *,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
    ) -> VideoReader:
        """Frames of ``video`` as the model takes them, a chunk an engine call. Raises as ``classify``."""
        return VideoReader(
            VideoSegment(video, start_seconds, end_seconds),
            self.manifest.sampling,
            chunk_frames=self.chunk_frames,
            limits=limits,
        )


def _tell(on_window: OnWindow | None, windows: list[WindowScores]) -> None:
    if on_window:
        for scores in windows:
            on_window(scores)
