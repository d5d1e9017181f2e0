"""The front of the library: load a repository, and recognise actions in videos and streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from sfavivit.arguments import checked
from sfavivit.engines.device import Device
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.features.extractor import FeatureExtractor
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import DEFAULT_OPTIONS, ClassifyOptions
from sfavivit.inference.results import Recognition, Timings, WindowScores
from sfavivit.inference.streaming import FrameStream, OnScores, Session
from sfavivit.inference.views import ViewSession
from sfavivit.repository.manifest import Manifest
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.limits import DEFAULT_LIMITS, Limits
from sfavivit.video.source import Source, VideoSegment

OnProgress = Callable[[float, float | None], None]
"""Called with the seconds of video done, and its duration where the container tells."""
OnWindow = Callable[[WindowScores], None]


class Recognizer:
    """Recognises actions in videos with one loaded model. Safe to use from several threads.

    Every method raises ``UsageError`` for an argument of a wrong type.
    """

    @checked
    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    @classmethod
    @checked
    def load(
        cls,
        repository: str | Path,
        *,
        engine: str | None = None,
        threads: int | None = None,
        chunk_tubelets: int | None = None,
        device: Device = "auto",
    ) -> Recognizer:
        """Load a model repository; arguments and errors as ``LoadedModel.load``."""
        return cls(
            LoadedModel.load(
                repository, engine=engine, threads=threads, chunk_tubelets=chunk_tubelets, device=device
            )
        )

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all heads."""
        return tuple(self.manifest.heads)

    @checked
    def features(self, frames: Frames) -> Features:
        """Compute features of frames at the repository's sampling: uint8 [F, H, W, 3] RGB -> float32 [T, D].

        A last tubelet that is not full repeats its last frame.

        Raises:
            InvalidInputError: another shape or dtype, or no frames.
            EngineError: the engine failed.
        """
        if not len(frames):
            raise InvalidInputError("features of no frames: give at least one frame")
        extractor = FeatureExtractor(self.model)
        chunks = [*extractor.push(frames), *extractor.finish()]
        return np.concatenate([chunk.features for chunk in chunks])

    @checked
    def logits(self, features: Features, head: str = "default") -> Logits:
        """Compute logits of one window: float32 [T, D] -> {output: float32 [C]}. T = 1 is already an answer.

        Raises:
            HeadNotFoundError: no such head.
            InvalidInputError: another shape or dtype, or values that are not finite.
            EngineError: the engine failed.
        """
        return self.model.logits(features, head)

    @checked
    def stream(
        self, chunks: Iterable[Frames], options: ClassifyOptions = DEFAULT_OPTIONS
    ) -> Iterator[WindowScores]:
        """Yield window scores while frames arrive, in chunks uint8 [n, H, W, 3] of any n.

        Raises:
            HeadNotFoundError, UsageError: options that do not fit the model.
            InvalidInputError: frames of another shape or dtype.
            EngineError: the engine failed.
        """
        stream = FrameStream(self.model, options)
        for frames in chunks:
            yield from stream.push(frames)
        yield from stream.finish()

    @checked
    def classify(
        self,
        video: Source | VideoSegment,
        options: ClassifyOptions = DEFAULT_OPTIONS,
        *,
        store: FeatureStore | None = None,
        limits: Limits = DEFAULT_LIMITS,
        on_progress: OnProgress | None = None,
        on_window: OnWindow | None = None,
        on_scores: OnScores | None = None,
    ) -> Recognition:
        """Recognise actions in a video: a path, the bytes of a file, or a segment of one.

        Times in the answer are those of the whole file. Decoding overlaps inference.

        Args:
            video: what to look at.
            options: heads, stride, top-k and views.
            store: feature store to take features from, and to keep new ones in.
            limits: limits of the decoder.
            on_progress: called after each engine call.
            on_window: called with the scores of each window.
            on_scores: called with the scores that the timeline is made of.

        Raises:
            VideoError: the video gives no frames, or exceeds a limit.
            InvalidInputError: the video ends before the segment starts.
            HeadNotFoundError, UsageError: options that do not fit the model.
            FeatureStoreError: the store cannot be written.
            EngineError: the engine failed.
        """
        options.resolve(self.manifest)  # wrong options are refused before the video is opened
        with FeatureReader(self.model, video, limits, crops=options.crops, store=store) as reader:
            return self.recognize(
                reader, options, on_progress=on_progress, on_window=on_window, on_scores=on_scores
            )

    @checked
    def recognize(
        self,
        reader: FeatureReader,
        options: ClassifyOptions = DEFAULT_OPTIONS,
        *,
        on_progress: OnProgress | None = None,
        on_window: OnWindow | None = None,
        on_scores: OnScores | None = None,
    ) -> Recognition:
        """Recognise actions from the features of ``reader``, made with ``options.crops``. As ``classify``."""
        if tuple(reader.crops) != options.crops:
            raise UsageError(
                f"the reader has {len(reader.crops)} crops, the options need {len(options.crops)}: make the "
                "reader with crops=options.crops"
            )
        started = time.perf_counter()
        session = (
            ViewSession(self.model, options.views, options)
            if options.views
            else Session(self.model, options, reader.segment.start_seconds, on_scores)
        )

        def tell(windows: list[WindowScores]) -> None:
            if on_window:
                for scores in windows:
                    on_window(scores)

        for chunk in reader:
            tell(session.add_features(chunk))
            if on_progress:
                seconds = reader.frames_used / self.manifest.sampling.fps
                on_progress(seconds, reader.container_duration_seconds)
        tell(session.finish())
        total_seconds = time.perf_counter() - started
        timings = Timings(
            reader.decode_seconds,
            reader.spatial_seconds,
            session.temporal_seconds,
            total_seconds,
            self.model.engine.device,
        )
        return session.result(reader.name, timings, reader.warning)
