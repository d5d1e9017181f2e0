"""The features of one video, from the store or from its frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np

from sfavivit.engines.base import Features
from sfavivit.errors import UsageError
from sfavivit.feature_store import FeatureKey, FeatureStore, StoredFeatures
from sfavivit.read_ahead import ReadAhead
from sfavivit.session import FeatureExtractor
from sfavivit.video import CENTER, Crop, Frames, Limits, OpenSource, Source, VideoReader
from sfavivit.video_source import display_name, open_source

if TYPE_CHECKING:
    from sfavivit.recognizer import Recognizer


HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class FeatureChunk:
    """The next features float32 [n, D] of one of the crops, and how many frames they were made of."""

    crop: int
    features: Features
    frames: int


class FeatureSource:
    """Iterate, once, over the features of a video in chunks; each tubelet of each crop is computed once.

    Looking up the store and decoding begin at once, in a thread of their own. So a source that is made while
    the one before it is still being used overlaps its decoding with that one's inference.

    With a ``store``, what is not in it is put there when the iteration reaches its end. The file is read
    twice then, once for its digest (a pipe cannot be). If it changes meanwhile, nothing is stored.

    ``decode_seconds``, ``spatial_seconds``: what has been spent. ``frames_used``: frames of a crop so far.
    ``warning``: what was wrong with the video, at the end. ``from_store``: nothing had to be computed.

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
    ) -> None:
        self._recognizer = recognizer
        self._video = video
        self._limits = limits
        self._end_seconds = end_seconds
        self._store = store
        self._extractors = [FeatureExtractor(recognizer) for _ in crops]
        self._reader: VideoReader | None = None
        self._stopped = False
        self._unchanged = False
        self._keys: list[FeatureKey] = []
        self._kept: list[list[Features]] = [[] for _ in crops]
        self._tubelet_frames = recognizer.manifest.dimensions.tubelet_frames
        self.crops = crops
        self.start_seconds = start_seconds
        self.frames_used = 0
        self.warning: str | None = None
        self.from_store = False
        self._items = ReadAhead(self._read(), self._stop)

    @property
    def name(self) -> str:
        """What to call the video in an answer."""
        if isinstance(self._video, OpenSource):
            return self._video.name
        return "<bytes>" if isinstance(self._video, bytes) else str(self._video)

    @property
    def decode_seconds(self) -> float:
        return self._reader.decode_seconds if self._reader else 0.0

    @property
    def spatial_seconds(self) -> float:
        return sum(extractor.seconds for extractor in self._extractors)

    @property
    def container_duration_seconds(self) -> float | None:
        """Of the whole file by its header, when that is known."""
        return self._reader.container_duration_seconds if self._reader else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoder and its thread. May be called again."""
        self._items.close()

    def __iter__(self) -> Iterator[FeatureChunk]:
        for item in self._items:
            if isinstance(item, list):
                yield from self._stored(item)
                return
            self.frames_used += len(item)
            squares = item if len(self.crops) > 1 else item[:, None]
            for crop, extractor in enumerate(self._extractors):
                for features in extractor.push(squares[:, crop]):
                    yield self._computed(crop, features, len(features) * self._tubelet_frames)
        rest = self.frames_used % (self._recognizer.chunk_tubelets * self._tubelet_frames)
        for crop, extractor in enumerate(self._extractors):
            for features in extractor.finish():
                yield self._computed(crop, features, rest)
        self._keep()

    def _stored(self, entries: list[StoredFeatures]) -> Iterator[FeatureChunk]:
        self.from_store = True
        self.frames_used, self.warning = entries[0].frames_used, entries[0].warning
        for crop, entry in enumerate(entries):
            yield FeatureChunk(crop, entry.features, entry.frames_used)

    def _computed(self, crop: int, features: Features, frames: int) -> FeatureChunk:
        if self._store:
            self._kept[crop].append(features)
        return FeatureChunk(crop, features, frames)

    def _keep(self) -> None:
        """At the end: what the decoder had to say, and the features into the store."""
        assert self._reader
        self.warning = self._reader.damage
        if not self._store or not self._unchanged:
            return
        tubelet_seconds = self._tubelet_frames / self._recognizer.manifest.sampling.fps
        for key, parts in zip(self._keys, self._kept, strict=True):
            features = np.concatenate(parts)
            timestamps = self.start_seconds + np.arange(len(features)) * tubelet_seconds
            self._store.put(key, StoredFeatures(features, timestamps, self.frames_used, self.warning))

    def _read(self) -> Iterator[Frames | list[StoredFeatures]]:
        """In the thread: what the store has, or else the frames."""
        video = OpenSource(open_source(self._video), display_name(self._video))
        if not self._store:
            yield from self._decode(video)
            return
        with os.fdopen(os.dup(video.descriptor), "rb", closefd=True) as file:
            try:
                before = _identity(file)
                self._keys = self._keys_of(file)
                entries = [self._store.get(key) for key in self._keys]
                found = [entry for entry in entries if entry]
            except BaseException:
                os.close(video.descriptor)
                raise
            if len(found) == len(self.crops):
                os.close(video.descriptor)
                yield found
                return
            yield from self._decode(video)
            self._unchanged = _identity(file) == before

    def _keys_of(self, file: BinaryIO) -> list[FeatureKey]:
        """The key of each crop. Leaves ``file`` at its start."""
        if not file.seekable():
            raise UsageError(f"{self.name}: a stream cannot be looked up in a feature store; give a file")
        manifest = self._recognizer.manifest
        digest = hashlib.sha256()
        while not self._stopped and (block := file.read(HASHED_BYTES)):
            digest.update(block)
        file.seek(0)
        return [
            FeatureKey(
                digest.hexdigest(),
                manifest.spatial_sha256,
                manifest.sampling,
                crop,
                float(self.start_seconds),
                None if self._end_seconds is None else float(self._end_seconds),
            )
            for crop in self.crops
        ]

    def _decode(self, video: OpenSource) -> Iterator[Frames]:
        manifest = self._recognizer.manifest
        self._reader = VideoReader(
            video,
            manifest.sampling,
            chunk_frames=self._recognizer.chunk_tubelets * self._tubelet_frames,
            limits=self._limits,
            start_seconds=self.start_seconds,
            end_seconds=self._end_seconds,
            crops=self.crops,
        )
        with self._reader:
            if not self._stopped:
                yield from self._reader

    def _stop(self) -> None:
        self._stopped = True
        if self._reader:
            self._reader.close()


def _identity(file: BinaryIO) -> tuple[int, int]:
    """Changes when a file is written to."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
