"""Features for training: extraction, variants, segments, interruption and cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.config import Crop, Sampling
from sfavivit.datasets import VideoItem, read_items
from sfavivit.errors import FeatureStoreError
from sfavivit.features.reader import FeatureReader
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.features.store import FeatureStore
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment
from tests.conftest import SIDE
from tests.features.videos import entries
from training.head.config import VariantConfig
from training.head.features import FeatureCache, FeatureFiller, variant_view
from training.head.ondemand_engine import open_on_demand

SAMPLING = Sampling(12.5, SIDE, SIDE)


def test_a_variant_is_what_its_key_says(repository: Path, videos: Path, tmp_path: Path) -> None:
    """Against frames read and computed apart from the store and its threads."""
    store, recognizer = FeatureStore(tmp_path / "store"), open_on_demand(repository)
    filler = FeatureFiller(recognizer, store, VariantConfig(scale_range=(1.2, 1.6)), threads=2)
    item = VideoItem("0", str(videos / "0.mp4"), {}, 0.2, 1.0)
    (stored,), broken = filler.fill([item], range(3), lambda _: None)
    assert not broken
    assert len({(key.sampling.shortest_side, key.crop) for key in stored.keys}) == 3
    for key in stored.keys:
        with VideoReader(
            VideoSegment(item.video, 0.2, 1.0), key.sampling, chunk_frames=16, crops=(key.crop,)
        ) as reader:
            frames = np.concatenate(list(reader))
        entry = store.get(key)
        assert entry is not None
        np.testing.assert_allclose(entry.features, Recognizer.load(repository).features(frames), atol=1e-6)


def test_parts_of_a_stored_video_are_not_extracted(repository: Path, videos: Path, tmp_path: Path) -> None:
    store, whole = FeatureStore(tmp_path / "store"), VideoItem("0", str(videos / "0.mp4"), {})
    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=1)
    manifest = filler.recognizer.manifest
    rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)
    parts = [align_to_tubelets(replace(whole, id=f"part {k}", start_seconds=k / 5), rate) for k in range(3)]
    stored, broken = filler.fill([whole, *parts], [0], lambda _: None)
    assert (len(stored), broken, filler.computed, len(entries(store))) == (4, [], 1, 1)
    features = FeatureCache(store, max_bytes=0)
    for part in stored:
        decoded = FeatureReader(
            filler.recognizer.model, VideoSegment(whole.video, start_seconds=part.item.start_seconds)
        )
        expected = np.concatenate([chunk.features for chunk in decoded])
        np.testing.assert_array_equal(features.get(part.keys[0]), expected)


@given(st.integers(0, 2**256 - 1), st.integers(1, 50), st.floats(0, 1), st.floats(0.5, 2), st.floats(0, 1))
def test_a_variant_is_a_function_of_content_and_number(
    content: int, number: int, flip: float, low: float, more: float
) -> None:
    config = VariantConfig(flip=flip, scale_range=(low, low + more))
    sha256 = f"{content:064x}"
    sampling, crop = variant_view(SAMPLING, sha256, number, config)
    assert (sampling, crop) == variant_view(SAMPLING, sha256, number, config)
    assert sampling.shortest_side >= sampling.crop_size == SIDE
    assert sampling.shortest_side <= max(SIDE, round(SIDE * (low + more)))
    assert variant_view(SAMPLING, sha256, 0, config) == (SAMPLING, Crop())


def test_flips_as_often_as_asked() -> None:
    crops = [variant_view(SAMPLING, f"{k:064x}", 1, VariantConfig())[1] for k in range(400)]
    assert 150 < sum(crop.flip for crop in crops) < 250
    assert {crop.along < 0.5 for crop in crops} == {True, False}


def test_an_interrupted_extraction_has_lost_nothing(repository: Path, videos: Path, tmp_path: Path) -> None:
    items = read_items(str(videos / "actions.csv"))
    store = FeatureStore(tmp_path / "store")

    def interrupt(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=2)
    with pytest.raises(KeyboardInterrupt):
        filler.fill(items, [0], interrupt)
    kept = len(entries(store))
    assert 3 <= kept < 12
    again = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=2)
    stored, broken = again.fill(items, [0], lambda _: None)
    assert (len(stored), broken, again.computed) == (12, [], 12 - kept)


def test_the_cache_keeps_within_bounds(repository: Path, videos: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=1)
    stored, _ = filler.fill(read_items(str(videos / "actions.csv"))[:2], [0], lambda _: None)
    (first,), (second,) = (video.keys for video in stored)
    room = 16 // 2 * 32 * 4  # one video: 16 frames, 32 values a tubelet
    cache = FeatureCache(store, room)
    assert cache.get(first) is cache.get(first)
    assert cache.get(second) is not cache.get(second)
    np.testing.assert_array_equal(cache.get(second), cache.get(second))
    store.path(second.digest).unlink()
    with pytest.raises(FeatureStoreError, match="start again to compute it"):
        cache.get(second)
