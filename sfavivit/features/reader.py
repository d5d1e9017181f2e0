"""The features of one video, from the store or from its frames."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import UsageError, VideoError
from sfavivit.features.digest import VideoDigest
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.features.store import FeatureStore
from sfavivit.inference.streaming import FeatureExtractor
from sfavivit.types import Features, Frames
from sfavivit.utils.prefetch import Prefetcher
from sfavivit.video.reader import Limits, VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment, display_name, open_source

if TYPE_CHECKING:
    from sfavivit.inference.recognizer import Recognizer


@dataclass(frozen=True)
class FeatureChunk:
    """The next features float32 [n, D] of one of the crops, and how many frames they were made of."""

    crop: int
    features: Features
    frames: int


@dataclass(frozen=True)
class _End:
    """All frames have come. ``keys``: of each crop, when what they became is to be kept."""

    damage: str | None
    keys: list[FeatureKey]


_Item = Frames | list[StoredFeatures] | _End


@dataclass
class _Reading:
    """What the thread of a source does: what the store has, or else the frames.

    It does not know the source, which can therefore be forgotten.
    """

    recognizer: Recognizer
    video: Source
    sampling: Sampling
    limits: Limits
    start_seconds: float
    end_seconds: float | None
    crops: tuple[Crop, ...]
    store: FeatureStore | None
    reader: VideoReader | None = None
    stopped: bool = False

    def stop(self) -> None:
        """Have ``items`` end; does not wait."""
        self.stopped = True
        if self.reader:
            self.reader.cancel()

    def items(self) -> Iterator[_Item]:
        """All that is read; called in the thread."""
        if self.store is None:
            yield from self._decode(self.video)
            yield self._end([])
            return
        name = display_name(self.video)
        with os.fdopen(open_source(self.video), "rb", buffering=0) as file:
            if not file.seekable():
                raise UsageError(f"{name}: a stream cannot be looked up in a feature store; give a file")
            try:
                digest = VideoDigest(file, lambda: self.stopped)
                if digest.sha256 is None:
                    return
                keys = self._keys(digest.sha256)
                entries = [entry for key in keys if (entry := self.store.get(key))]
                if len(entries) == len(keys):
                    yield entries
                    return
                yield from self._decode(OpenSource(os.dup(file.fileno()), name))
                yield self._end(keys if digest.holds() else [])
            except OSError as error:
                raise VideoError(f"{name}: cannot be read: {error.strerror or error}") from error

    def _keys(self, video_sha256: str) -> list[FeatureKey]:
        """The key of each crop."""
        spatial_sha256 = self.recognizer.manifest.spatial_sha256
        start = float(self.start_seconds)
        end = None if self.end_seconds is None else float(self.end_seconds)
        return [
            FeatureKey(video_sha256, spatial_sha256, self.sampling, crop, start, end) for crop in self.crops
        ]

    def _end(self, keys: list[FeatureKey]) -> _End:
        assert self.reader is not None
        return _End(self.reader.damage, keys)

    def _decode(self, video: Source) -> Iterator[Frames]:
        self.reader = VideoReader(
            VideoSegment(video, self.start_seconds, self.end_seconds),
            self.sampling,
            chunk_frames=self.recognizer.chunk_frames,
            limits=self.limits,
            crops=self.crops,
        )
        with self.reader:
            if not self.stopped:
                yield from self.reader


class FeatureSource:
    """Iterate, once, over the features of a video in chunks; each tubelet of each crop is computed once.

    Looking up the store and decoding begin at once, in a thread of their own. So a source that is made while
    the one before it is still being used overlaps its decoding with that one's inference.

    With a ``store``, what is not in it is put there when the iteration reaches its end. Until then all
    features are in memory: with D = 768 it is 3 KB a tubelet, 66 MiB an hour (12.5 fps, two frames a tubelet)
    for each crop, and three times that while they are written. The file is read twice, once for its digest,
    so it cannot be a pipe. If it changes meanwhile, nothing is stored.

    What comes from the store costs no decoding, so no limit is looked at.

    ``sampling``: another than the repository's, of the same crop size, for features to train on.

    ``decode_seconds``, ``spatial_seconds``: what has been spent. ``frames_used``: frames of a crop so far.
    ``warning``: what was wrong with the video, at the end. ``from_store``: nothing had to be computed.

    ``close`` may be called from any thread, and ends an iteration there; ``warning`` then says that. A source
    that is forgotten ends its thread and its decoder, too, a moment later.

    Raises, from the iteration:
        VideoError: the video gives no frames, or breaks a limit.
        InvalidInputError: it ends before ``start_seconds``.
        UsageError: a pipe, with a store; a part of the video that cannot be.
        FeatureStoreError: the store cannot be written.
        EngineError: the engine failed.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        video: Source,
        limits: Limits,
        *,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        crops: tuple[Crop, ...] = CENTER,
        store: FeatureStore | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self._extractors = [FeatureExtractor(recognizer) for _ in crops]
        self._ended = False
        self._kept: list[list[Features]] = [[] for _ in crops]
        self._tubelet_frames = recognizer.manifest.dimensions.tubelet_frames
        self.crops = crops
        self.start_seconds = start_seconds
        self.frames_used = 0
        self.warning: str | None = None
        self.from_store = False
        sampling = sampling or recognizer.manifest.sampling
        self._reading = _Reading(
            recognizer, video, sampling, limits, start_seconds, end_seconds, crops, store
        )
        self._items = Prefetcher(self._reading.items(), self._reading.stop)
        self._forgotten = weakref.finalize(self, self._items.abandon)

    @property
    def name(self) -> str:
        """What to call the video in an answer."""
        video = self._reading.video
        if isinstance(video, OpenSource):
            return video.name
        return "<bytes>" if isinstance(video, bytes) else str(video)

    @property
    def decode_seconds(self) -> float:
        reader = self._reading.reader
        return reader.decode_seconds if reader else 0.0

    @property
    def spatial_seconds(self) -> float:
        return sum(extractor.seconds for extractor in self._extractors)

    @property
    def container_duration_seconds(self) -> float | None:
        """Of the whole file by its header, when that is known."""
        reader = self._reading.reader
        return reader.container_duration_seconds if reader else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoder and its thread. May be called again."""
        self._forgotten.detach()  # an interrupt that comes while a finalizer runs is lost
        self._items.close()

    def __iter__(self) -> Iterator[FeatureChunk]:
        for item in self._items:
            if isinstance(item, _End):
                yield from self._last_features()
                self._keep(item)
            elif isinstance(item, list):
                yield from self._stored(item)
            else:
                yield from self._push(item)
        if not self._ended:
            self.warning = f"closed before the end, after {self.frames_used} frames"

    def _push(self, frames: Frames) -> Iterator[FeatureChunk]:
        self.frames_used += len(frames)
        squares = frames if len(self.crops) > 1 else frames[:, None]
        for crop, extractor in enumerate(self._extractors):
            for features in extractor.push(squares[:, crop]):
                yield self._computed(crop, features, len(features) * self._tubelet_frames)

    def _last_features(self) -> Iterator[FeatureChunk]:
        rest = self.frames_used % self._reading.recognizer.chunk_frames
        for crop, extractor in enumerate(self._extractors):
            for features in extractor.finish():
                yield self._computed(crop, features, rest)

    def _stored(self, entries: list[StoredFeatures]) -> Iterator[FeatureChunk]:
        self.from_store = self._ended = True
        self.frames_used, self.warning = entries[0].frames_used, entries[0].warning
        for crop, entry in enumerate(entries):
            yield FeatureChunk(crop, entry.features, entry.frames_used)

    def _computed(self, crop: int, features: Features, frames: int) -> FeatureChunk:
        if self._reading.store is not None:
            self._kept[crop].append(features)
        return FeatureChunk(crop, features, frames)

    def _keep(self, end: _End) -> None:
        """At the end: what the decoder had to say, and the features into the store."""
        self._ended = True
        self.warning = end.damage
        store = self._reading.store
        tubelet_seconds = self._tubelet_frames / self._reading.sampling.fps
        for key, parts in zip(end.keys, self._kept, strict=False):
            assert store is not None
            features = np.concatenate(parts)
            parts.clear()
            timestamps = self.start_seconds + np.arange(len(features)) * tubelet_seconds
            store.put(key, StoredFeatures(features, timestamps, self.frames_used, end.damage))
