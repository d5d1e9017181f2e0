"""Features of videos for training: missing ones are computed by the repository's spatial engine and stored.

Each video has the plain features that serving uses, and augmented variants. A variant is a function of the
video's content and its number, so it is found again wherever the file lies. Each costs as much as the plain
features: one decoding and one spatial pass, and as much room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.datasets import VideoItem
from sfavivit.errors import FeatureStoreError, InvalidInputError, VideoError
from sfavivit.features.digest import VideoDigest
from sfavivit.features.entry import FeatureKey
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.recognizer import Recognizer
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES
from sfavivit.types import Features
from sfavivit.video.source import OpenSource, VideoSegment, display_name, open_source
from training.clips import Broken
from training.head.config import VariantConfig


@dataclass(frozen=True)
class StoredVideo:
    """A video whose features are stored under ``keys``: first the plain ones, then the augmented variants."""

    item: VideoItem
    keys: tuple[FeatureKey, ...]


def variant_view(
    sampling: Sampling, video_sha256: str, number: int, config: VariantConfig
) -> tuple[Sampling, Crop]:
    """Return scale and crop of a video's variant, counted from 1; number 0 is the view of serving."""
    if number == 0:
        return sampling, CENTER[0]
    rng = np.random.default_rng((int(video_sha256, 16), number))
    scale, along, across, flip = rng.random(4)
    low, high = config.scale_range
    side = max(sampling.crop_size, round(sampling.shortest_side * (low + scale * (high - low))))
    crop = Crop(round(along, 3), round(across, 3), bool(flip < config.flip))
    return Sampling(sampling.fps, side, sampling.crop_size), crop


class FeatureFiller:
    """Computes the features that ``store`` lacks, ``threads`` videos at a time."""

    def __init__(
        self, recognizer: Recognizer, store: FeatureStore, variants: VariantConfig, threads: int
    ) -> None:
        self.recognizer, self.store, self.variants, self.threads = recognizer, store, variants, threads
        self._passes: list[FeatureKey] = []  # appended to by several threads
        self._stopped = False

    @property
    def computed(self) -> int:
        """Number of passes over a video so far."""
        return len(self._passes)

    def fill(
        self, items: Sequence[VideoItem], numbers: Sequence[int], progress: Callable[[int], None]
    ) -> tuple[list[StoredVideo], list[Broken]]:
        """Store the variants ``numbers`` of every item; return the stored videos and the broken ones.

        ``progress`` is called with the number of items done. An interruption loses only the videos that were
        being read.

        Raises:
            FeatureStoreError: the store cannot be written.
            EngineError: the engine failed.
            UsageError: a video at a URL for which a package is missing.
        """
        stored, broken = [], []
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="features")
        try:
            outcomes = pool.map(lambda item: self._fill_video(item, numbers), items)
            for done, outcome in enumerate(outcomes, start=1):
                if isinstance(outcome, StoredVideo):
                    stored.append(outcome)
                else:
                    broken.append(outcome)
                progress(done)
        finally:
            self._stopped = True
            pool.shutdown(cancel_futures=True)
            self._stopped = False
        return stored, broken

    def _fill_video(self, item: VideoItem, numbers: Iterable[int]) -> StoredVideo | Broken:
        try:
            return StoredVideo(item, tuple(self._keys(item, numbers)))
        except (VideoError, InvalidInputError) as error:
            return Broken(item.id, str(error))

    def _keys(self, item: VideoItem, numbers: Iterable[int]) -> Iterator[FeatureKey]:
        """Yield the key of each variant once its features are stored."""
        source = item.open(DEFAULT_FETCH_BYTES)
        name = display_name(source)
        with os.fdopen(open_source(source), "rb", buffering=0) as file:
            try:
                sha256 = VideoDigest(file, lambda: self._stopped).sha256
            except OSError as error:
                raise VideoError(f"{name}: cannot be read: {error.strerror or error}") from error
            if sha256 is None:
                raise VideoError(f"{name}: stopped")
            for number in numbers:
                key = self._key(sha256, number, item)
                if self.store.get(key) is None:
                    file.seek(0)  # the descriptors share their place
                    self._compute(OpenSource(os.dup(file.fileno()), name), key)
                    if self.store.get(key) is None:
                        raise VideoError(f"{name}: changed while it was being read; try again")
                yield key

    def _key(self, sha256: str, number: int, item: VideoItem) -> FeatureKey:
        manifest = self.recognizer.manifest
        sampling, crop = variant_view(manifest.sampling, sha256, number, self.variants)
        start = float(item.start_seconds)
        end = None if item.end_seconds is None else float(item.end_seconds)
        return FeatureKey(sha256, manifest.spatial_sha256, sampling, crop, start, end)

    def _compute(self, video: OpenSource, key: FeatureKey) -> None:
        self._passes.append(key)
        with FeatureReader(
            self.recognizer.model,
            VideoSegment(video, key.start_seconds, key.end_seconds),
            crops=(key.crop,),
            store=self.store,
            sampling=key.sampling,
        ) as source:
            for _ in source:
                if self._stopped:
                    break


class FeatureCache:
    """Features float32 [T, D] by key, read from the store and kept in memory up to ``max_bytes``."""

    def __init__(self, store: FeatureStore, max_bytes: int) -> None:
        self._store = store
        self._bytes_left = max_bytes
        self._kept: dict[str, Features] = {}

    def get(self, key: FeatureKey) -> Features:
        """Return features; raises ``FeatureStoreError`` when the store has lost them."""
        if (found := self._kept.get(key.digest)) is not None:
            return found
        entry = self._store.get(key)
        if entry is None:
            path = self._store.path(key.digest)
            raise FeatureStoreError(f"{path} has gone or been damaged meanwhile; start again to compute it")
        if entry.features.nbytes <= self._bytes_left:
            self._bytes_left -= entry.features.nbytes
            self._kept[key.digest] = entry.features
        return entry.features
