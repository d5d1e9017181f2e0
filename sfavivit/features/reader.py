"""Features of one video, read from the feature store or computed from its frames."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import UsageError, VideoError
from sfavivit.features.digest import VideoDigest
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.features.extractor import FeatureChunk, FeatureExtractor
from sfavivit.features.store import FeatureStore
from sfavivit.types import Features, Frames
from sfavivit.utils.prefetch import Prefetcher
from sfavivit.video.limits import DEFAULT_LIMITS, Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment, display_name, open_source


@dataclass(frozen=True)
class _End:
    """End of a video's frames. ``keys``: under which the features of each crop are to be stored, if any."""

    warning: str | None
    keys: list[FeatureKey]


_Item = Frames | list[StoredFeatures] | _End


@dataclass
class _Reading:
    """Work of a reader's thread: look features up in the store, or else decode frames.

    It does not know the ``FeatureReader``, which can therefore be garbage-collected.
    """

    segment: VideoSegment
    sampling: Sampling
    spatial_sha256: str
    chunk_frames: int
    limits: Limits
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
        """Yield the stored features of all crops, or the frames and their end; called in the thread."""
        if self.store is None:
            yield from self._decode(self.segment, lambda: [])
            return
        name = display_name(self.segment.source)
        with os.fdopen(open_source(self.segment.source), "rb", buffering=0) as file:
            if not file.seekable():
                raise UsageError(f"{name}: a stream cannot be looked up in a feature store; give a file")
            try:
                digest = VideoDigest(file, lambda: self.stopped)
                if digest.sha256 is None:
                    return
                keys = [self._key(digest.sha256, crop) for crop in self.crops]
                entries = [entry for key in keys if (entry := self.store.get(key))]
                if len(entries) == len(keys):
                    yield entries
                    return
                copy = OpenSource(os.dup(file.fileno()), name)
                yield from self._decode(
                    replace(self.segment, source=copy), lambda: keys if digest.holds() else []
                )
            except OSError as error:
                raise VideoError(f"{name}: cannot be read: {error.strerror or error}") from error

    def _key(self, video_sha256: str, crop: Crop) -> FeatureKey:
        start, end = float(self.segment.start_seconds), self.segment.end_seconds
        end = None if end is None else float(end)
        return FeatureKey(
            video_sha256, self.spatial_sha256, self.sampling, crop, start, end, self.segment.video_track
        )

    def _decode(self, segment: VideoSegment, keys: Callable[[], list[FeatureKey]]) -> Iterator[_Item]:
        """Yield frames and their end; ``keys`` is called when the file has been read."""
        self.reader = VideoReader(
            segment, self.sampling, chunk_frames=self.chunk_frames, limits=self.limits, crops=self.crops
        )
        with self.reader:
            if not self.stopped:
                yield from self.reader
        yield _End(self.reader.warning, keys())


class FeatureReader:
    """Iterate, once, over the features of a video in chunks; each tubelet of each crop is computed once.

    Looking up the store and decoding begin at once, in a thread of their own. So a reader that is made while
    the one before it is still being used overlaps its decoding with that one's inference.

    With a ``store``, features that it lacks are put there when the iteration reaches its end. Until then all
    of them are in memory: with D = 768, 66 MiB an hour (12.5 fps, two frames a tubelet) for each crop, and
    three times that while they are written. The file is read twice, once for its digest, so it cannot be a
    pipe. If it changes meanwhile, nothing is stored. Stored features cost no decoding, so no limit applies.

    ``close`` may be called from any thread, and ends an iteration there; ``warning`` then says so. An error
    closes the reader, too. One that is forgotten ends its thread and its decoder a moment later.

    Args:
        model: computes the features.
        video: a video file, or a segment of one.
        limits: limits of the decoder.
        crops: crops of the picture; chunks name theirs by its index.
        store: where features are looked up and kept.
        sampling: in place of the repository's, of the same crop size; for features to train on.

    Attributes:
        crops: crops of the picture, as given.
        frames_used: frames of a crop so far.
        warning: what was irregular in the video, known at the end; None if nothing was.
        from_store: whether the features came from the store.

    Raises, from the iteration:
        VideoError: the video gives no frames, or exceeds a limit.
        InvalidInputError: it ends before the segment starts.
        UsageError: a pipe, with a store.
        FeatureStoreError: the store cannot be written.
        EngineError: the engine failed.
    """

    def __init__(
        self,
        model: LoadedModel,
        video: Source | VideoSegment,
        limits: Limits = DEFAULT_LIMITS,
        *,
        crops: tuple[Crop, ...] = CENTER,
        store: FeatureStore | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.segment = video if isinstance(video, VideoSegment) else VideoSegment(video)
        self.frames_used = 0
        self.warning: str | None = None
        self.from_store = False
        self._ended = False
        self.crops = crops
        self._extractors = [FeatureExtractor(model, crop) for crop in range(len(crops))]
        self._kept: list[list[Features]] = [[] for _ in crops]
        sampling = sampling or model.manifest.sampling
        self._tubelet_seconds = model.manifest.dimensions.tubelet_frames / sampling.fps
        spatial_sha256 = model.manifest.spatial_sha256 if store else ""
        self._reading = _Reading(
            self.segment, sampling, spatial_sha256, model.chunk_frames, limits, crops, store
        )
        self._items = Prefetcher(self._reading.items(), self._reading.stop)
        self._forgotten = weakref.finalize(self, self._items.abandon)

    @property
    def name(self) -> str:
        """Name of the video in results."""
        source = self.segment.source
        if isinstance(source, OpenSource):
            return source.name
        return "<bytes>" if isinstance(source, bytes) else str(source)

    @property
    def decode_seconds(self) -> float:
        """Seconds spent waiting for the decoder."""
        reader = self._reading.reader
        return reader.decode_seconds if reader else 0.0

    @property
    def spatial_seconds(self) -> float:
        """Seconds spent in the spatial engine."""
        return sum(extractor.seconds for extractor in self._extractors)

    @property
    def container_duration_seconds(self) -> float | None:
        """Duration of the whole file by its header, when that is known."""
        reader = self._reading.reader
        return reader.container_duration_seconds if reader else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoder and its thread. May be called again."""
        self._forgotten.detach()  # an interrupt that comes while a finalizer runs is lost
        self._items.close()

    def __iter__(self) -> Iterator[FeatureChunk]:
        for item in self._items:
            yield from self._chunks(item)
            if isinstance(item, _End):
                self._finish(item)
        if not self._ended:
            self.warning = f"closed before the end, after {self.frames_used} frames"

    def _chunks(self, item: _Item) -> list[FeatureChunk]:
        """Return the chunks of all crops, so that none lags behind the others if the caller stops here."""
        if isinstance(item, list):
            self.from_store = self._ended = True
            self.frames_used, self.warning = item[0].frames_used, item[0].warning
            return [FeatureChunk(entry.features, entry.frames_used, k) for k, entry in enumerate(item)]
        try:
            if isinstance(item, _End):
                chunks = [chunk for extractor in self._extractors for chunk in extractor.finish()]
            else:
                self.frames_used += len(item)
                squares = item if len(self.crops) > 1 else item[:, None]
                chunks = [
                    chunk
                    for crop, extractor in enumerate(self._extractors)
                    for chunk in extractor.push(squares[:, crop])
                ]
        except BaseException:
            self._items.abandon()  # features that follow a gap must not reach the store
            raise
        if self._reading.store is not None:
            for chunk in chunks:
                self._kept[chunk.crop].append(chunk.features)
        return chunks

    def _finish(self, end: _End) -> None:
        """Note the decoder's warning, and put the features into the store."""
        self._ended = True
        self.warning = end.warning
        store = self._reading.store
        for key, parts in zip(end.keys, self._kept, strict=False):
            assert store is not None
            features = np.concatenate(parts)
            parts.clear()
            timestamps = self.segment.start_seconds + self._tubelet_seconds * np.arange(
                len(features), dtype=np.float64
            )
            store.put(key, StoredFeatures(features, timestamps, self.frames_used, end.warning))
