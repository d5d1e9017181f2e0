"""Frames in portions of any size become features, each tubelet computed once, in engine calls of one size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfavivit.arguments import checked
from sfavivit.engines.model import LoadedModel, TimedEngine
from sfavivit.errors import InvalidInputError
from sfavivit.types import Features, Frames


@dataclass(frozen=True)
class FeatureChunk:
    """Consecutive features float32 [n, D] of one crop, and the number of frames they were computed from."""

    features: Features
    frames: int
    crop: int = 0


class FeatureExtractor:
    """Collects frames into chunks of ``chunk_tubelets`` tubelets and runs the spatial engine on each.

    The engine sees the same calls however the frames arrive, so a stream and a file give the same features to
    the last bit. A chunk in which nothing moves, all of its tubelets being equal to the one before it, is not
    computed: a feature is a function of its tubelet alone. Slides, screens and empty rooms are mostly such.
    """

    def __init__(self, model: LoadedModel, crop: int = 0) -> None:
        dims = model.manifest.dimensions
        self._timed = TimedEngine(model.engine)
        self._model = model.with_engine(self._timed)
        self._crop = crop
        self._tubelet_frames = dims.tubelet_frames
        self._chunk = np.zeros((model.chunk_frames, dims.image_size, dims.image_size, 3), np.uint8)
        self._filled = 0
        self._last: tuple[Frames, Features] | None = None  # tubelet and its feature

    @property
    def seconds(self) -> float:
        """Seconds spent in the spatial engine."""
        return self._timed.timer.seconds["spatial"]

    @checked
    def push(self, frames: Frames) -> list[FeatureChunk]:
        """Add frames uint8 [n, H, W, 3], any n, and return the chunks that they completed.

        Raises:
            InvalidInputError: another shape or dtype.
            EngineError: the engine failed.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._chunk.shape[1:]:
            raise InvalidInputError(
                f"frames are {frames.dtype} {list(frames.shape)}; the model takes "
                f"uint8 [n, {', '.join(map(str, self._chunk.shape[1:]))}]"
            )
        chunks = []
        while len(frames):
            taken = min(len(frames), len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + taken] = frames[:taken]
            self._filled += taken
            frames = frames[taken:]
            if self._filled == len(self._chunk):
                chunks.append(self._run())
        return chunks

    def finish(self) -> list[FeatureChunk]:
        """Return the chunk of the frames still waiting, if any; the last frame fills up its tubelet."""
        return [self._run()] if self._filled else []

    def _run(self) -> FeatureChunk:
        frames, self._filled = self._filled, 0
        self._chunk[frames:] = self._chunk[frames - 1]
        tubelets = self._chunk.reshape(-1, self._tubelet_frames, *self._chunk.shape[1:])
        if self._last and all(np.array_equal(tubelet, self._last[0]) for tubelet in tubelets):
            features = np.tile(self._last[1], (len(tubelets), 1))
        else:
            features = self._model.features(self._chunk)
            self._last = tubelets[-1].copy(), features[-1]
        return FeatureChunk(features[: -(-frames // self._tubelet_frames)], frames, self._crop)
