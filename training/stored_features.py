"""Videos -> features in the store: what it lacks is computed, by the repository's own spatial engine.

Of each video the features that serving uses and, for training, some augmented variants. A variant is a
function of the video's content and its number, so it is found again wherever the video lies. Each costs what
the plain features cost, one decoding and one spatial pass, and as much room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.datasets import VideoItem
from sfavivit.datasets.fetch import open_video
from sfavivit.errors import FeatureStoreError, InvalidInputError, VideoError
from sfavivit.features.digest import VideoDigest
from sfavivit.features.entry import FeatureKey
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.recognizer import Recognizer
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES
from sfavivit.types import Features
from sfavivit.video.reader import Limits
from sfavivit.video.source import OpenSource, display_name, open_source
from training.clips import Broken
from training.head_config import VariantConfig

View = tuple[Sampling, Crop]


@dataclass(frozen=True)
class StoredVideo:
    """A video whose features the store has: under ``keys``, the first as it is served, the rest augmented."""

    item: VideoItem
    keys: tuple[FeatureKey, ...]


def variant_view(sampling: Sampling, video_sha256: str, number: int, config: VariantConfig) -> View:
    """Variant ``number`` (from 1) of a video; number 0 is what serving sees."""
    if number == 0:
        return sampling, CENTER[0]
    rng = np.random.default_rng((int(video_sha256, 16), number))
    scale, along, across, flip = rng.random(4)
    low, high = config.scale_range
    side = max(sampling.crop_size, round(sampling.shortest_side * (low + scale * (high - low))))
    place = Crop(round(along, 3), round(across, 3), bool(flip < config.flip))
    return Sampling(sampling.fps, side, sampling.crop_size), place


@dataclass
class FeatureFiller:
    """Fills ``store`` with features of ``recognizer``'s repository, several videos at a time.

    ``computed``: passes over a video that had to be made so far.
    """

    recognizer: Recognizer
    store: FeatureStore
    variants: VariantConfig
    threads: int
    limits: Limits = field(default_factory=Limits)
    computed: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[FeatureReader] = set()
        self._stopped = False

    def fill(
        self, items: Sequence[VideoItem], numbers: Sequence[int], progress: Callable[[int], None]
    ) -> tuple[list[StoredVideo], list[Broken]]:
        """Have the variants ``numbers`` of every item; the items that could be read, and those that not.

        ``progress`` is told how many items are done. What is interrupted has lost nothing but the videos
        that were being read.

        Raises:
            FeatureStoreError: the store cannot be written.
            EngineError: the engine failed.
            UsageError: a video of an address for which a package is missing.
        """
        stored, broken = [], []
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="features")
        try:
            outcomes = pool.map(lambda item: self._stored(item, numbers), items)
            for done, outcome in enumerate(outcomes, start=1):
                if isinstance(outcome, StoredVideo):
                    stored.append(outcome)
                else:
                    broken.append(outcome)
                progress(done)
        finally:
            self._stop()
            pool.shutdown(cancel_futures=True)
            self._stopped = False
        return stored, broken

    def _stored(self, item: VideoItem, numbers: Iterable[int]) -> StoredVideo | Broken:
        try:
            return StoredVideo(item, tuple(self._keys(item, numbers)))
        except (VideoError, InvalidInputError) as error:
            return Broken(item.id, str(error))

    def _keys(self, item: VideoItem, numbers: Iterable[int]) -> Iterator[FeatureKey]:
        """Of the features of an item, each when the store has them."""
        source = open_video(item.video, DEFAULT_FETCH_BYTES)
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

    def _compute(self, source: OpenSource, key: FeatureKey) -> None:
        made = FeatureReader(
            self.recognizer,
            source,
            self.limits,
            start_seconds=key.start_seconds,
            end_seconds=key.end_seconds,
            crops=(key.crop,),
            store=self.store,
            sampling=key.sampling,
        )
        with made, self._known(made):
            for _ in made:
                pass

    @contextmanager
    def _known(self, source: FeatureReader) -> Iterator[None]:
        """Among those that ``_stop`` closes."""
        with self._lock:
            self._running.add(source)
            self.computed += 1
            if self._stopped:
                source.close()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(source)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for source in self._running:
                source.close()


class FeatureCache:
    """Features float32 [T, D] by key, from the store; as many as ``bytes_kept`` holds are read once only."""

    def __init__(self, store: FeatureStore, bytes_kept: int) -> None:
        self._store = store
        self._room = bytes_kept
        self._kept: dict[str, Features] = {}

    def get(self, key: FeatureKey) -> Features:
        """Raises ``FeatureStoreError`` when the store has lost them."""
        if (found := self._kept.get(key.digest)) is not None:
            return found
        entry = self._store.get(key)
        if entry is None:
            path = self._store.path(key.digest)
            raise FeatureStoreError(f"{path} has gone or been damaged meanwhile; start again to compute it")
        if entry.features.nbytes <= self._room:
            self._room -= entry.features.nbytes
            self._kept[key.digest] = entry.features
        return entry.features
