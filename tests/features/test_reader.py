"""Features from the store or from the frames: the same scores, no work done twice, nothing wrong kept."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.errors import EngineError, FeatureStoreError, InvalidInputError
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.types import Features, Frames
from sfavivit.video.limits import Limits
from sfavivit.video.source import VideoSegment
from tests.conftest import wide_video
from tests.counting_engine import CountingEngine
from tests.features.entries import DAMAGES, flipped
from tests.features.videos import entries, essence, forbid_decoders

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ({}, ClassifyOptions()),
        ({}, ClassifyOptions(heads=("long",))),
        ({"start_seconds": 1.1, "end_seconds": 4.0}, ClassifyOptions()),
        ({"end_seconds": 0.1}, ClassifyOptions()),
        ({}, ClassifyOptions(views=Views(4, 3))),
        ({}, ClassifyOptions(views=Views(2, 1))),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["video", "damaged_video"])
def test_scores_from_the_store_are_those_from_the_video_bit_for_bit(
    recognizer: Recognizer,
    engine: CountingEngine,
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    part: dict[str, Any],
    options: ClassifyOptions,
) -> None:
    segment = VideoSegment(request.getfixturevalue(name), **part)
    whole = segment.end_seconds is None  # whether a decoder that is cut short has met damage is chance
    without = recognizer.classify(segment, options)
    first = recognizer.classify(segment, options, store=store)
    assert essence(first, warned=whole) == essence(without, warned=whole)
    assert len(entries(store)) == len(options.crops)
    calls = len(engine.frames)
    forbid_decoders(monkeypatch)
    second = recognizer.classify(segment, options, store=FeatureStore(store.root))
    assert essence(second) == essence(first)
    if whole:
        assert bool(second.warning) == (name == "damaged_video")
    assert len(engine.frames) == calls
    assert (second.timings.decode_seconds, second.timings.spatial_seconds) == (0, 0)


def test_another_head_and_other_views_need_no_decoder(
    recognizer: Recognizer, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, video: Path
) -> None:
    long = ClassifyOptions(heads=("long",))
    expected = recognizer.classify(video, long)
    views = recognizer.classify(video, replace(long, views=Views(3, 1)))
    recognizer.classify(video, ClassifyOptions(heads=("default",)), store=store)
    recognizer.classify(video, ClassifyOptions(heads=("default",), views=Views(4, 3)), store=store)
    forbid_decoders(monkeypatch)
    for options, answer in ((long, expected), (replace(long, views=Views(3, 1)), views)):
        assert essence(recognizer.classify(video, options, store=store)) == essence(answer)
    recognizer.classify(video, replace(long, views=Views(9, 3)), store=store)


def test_the_same_content_under_another_name(
    recognizer: Recognizer, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, video: Path, tmp_path: Path
) -> None:
    expected = recognizer.classify(video, store=store)
    copy = shutil.copy(video, tmp_path / "copy.bin")
    forbid_decoders(monkeypatch)
    answer = recognizer.classify(copy, store=store)
    assert essence(answer) == essence(replace(expected, video=str(copy)))
    assert recognizer.classify(video.read_bytes(), store=store).heads["long"].keys() == {"verb", "noun"}


def test_what_was_looked_at_counts(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    recognizer.classify(video, store=store)
    for segment in (VideoSegment(video, start_seconds=1.0), VideoSegment(video, end_seconds=5.0)):
        answer = recognizer.classify(segment, store=store)
        assert essence(answer) == essence(recognizer.classify(segment))
    assert len(entries(store)) == 3


def test_timestamps_are_seconds_of_the_video(
    recognizer: Recognizer, store: FeatureStore, video: Path
) -> None:
    keys: list[FeatureKey] = []
    put = store.put

    def noting(key: FeatureKey, entry: StoredFeatures) -> None:
        keys.append(key)
        put(key, entry)

    store.put = noting  # type: ignore[method-assign]
    recognizer.classify(VideoSegment(video, start_seconds=2.0), store=store)
    entry = store.get(keys[0])
    assert entry
    assert (len(entry.features), entry.frames_used) == (25, 50)
    np.testing.assert_allclose(entry.timestamps, 2 + 0.16 * np.arange(25))


@pytest.mark.parametrize("which", ["tests", "demo"])
def test_float16_features_give_nearly_the_same_logits(
    recognizer: Recognizer, tmp_path: Path, video: Path, which: str
) -> None:
    if which == "demo":
        recognizer, video = Recognizer.load(ROOT / "model_repository"), ROOT / "docs" / "motions.mp4"
    store = FeatureStore(tmp_path / "store", "float16")
    exact = recognizer.classify(video, store=store)
    rounded = recognizer.classify(video, store=store)
    assert rounded.timings.decode_seconds == 0
    for head, outputs in exact.heads.items():
        for output, result in outputs.items():
            a, b = result.logits, rounded.heads[head][output].logits
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999
            assert a.tobytes() != b.tobytes()


def check_mended(
    recognizer: Recognizer, store: FeatureStore, video: Path, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged entry is reported, changes no score, and is replaced."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sfavivit"):
        assert essence(recognizer.classify(video, store=store)) == expected
        assert len(caplog.records) == 1
        with FeatureReader(recognizer.model, video, store=store) as source:
            list(source)
        assert source.from_store
        assert essence(recognizer.classify(video, store=store)) == expected
        assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["half", "text", "folder with content", "fifo", "link to a copy"])
def test_a_damaged_entry_never_changes_a_score(
    recognizer: Recognizer,
    store: FeatureStore,
    video: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    expected = essence(recognizer.classify(video, store=store))
    DAMAGES[name](entries(store)[0])
    check_mended(recognizer, store, video, expected, caplog)


@given(data=st.data())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_a_flipped_bit_never_changes_a_score(
    recognizer: Recognizer,
    store: FeatureStore,
    damaged_video: Path,
    caplog: pytest.LogCaptureFixture,
    data: st.DataObject,
) -> None:
    expected = essence(recognizer.classify(damaged_video, store=store))
    [path] = entries(store)
    content = path.read_bytes()
    path.write_bytes(flipped(content, data.draw(st.integers(0, 8 * len(content) - 1))))
    check_mended(recognizer, store, damaged_video, expected, caplog)


def test_an_entry_of_another_video_never_changes_a_score(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = essence(recognizer.classify(video, store=store))
    [mine] = entries(store)
    recognizer.classify(wide_video(tmp_path / "other.mp4", 150, seed=8), store=store)
    [other] = set(entries(store)) - {mine}
    shutil.copy(other, mine)
    check_mended(recognizer, store, video, expected, caplog)


def test_one_crop_that_is_missing(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    expected = essence(recognizer.classify(video, ClassifyOptions(views=Views(4, 3)), store=store))
    paths = entries(store)
    paths[1].unlink()
    assert essence(recognizer.classify(video, ClassifyOptions(views=Views(4, 3)), store=store)) == expected
    assert entries(store) == paths


def test_a_store_that_cannot_be_written(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path
) -> None:
    recognizer.classify(video, store=store)
    [path] = entries(store)
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    with pytest.raises(FeatureStoreError, match="cannot be written") as raised:
        recognizer.classify(video, store=store)
    assert "\n" not in str(raised.value)


class FailingEngine(CountingEngine):
    """Breaks at the third call, in one way or another."""

    fails = True

    def spatial(self, frames: Frames) -> Features:
        features = super().spatial(frames)
        if len(self.frames) != 3:
            return features
        if self.fails:
            raise EngineError("the engine failed")
        return features * np.float32(np.nan)


@pytest.mark.parametrize("fails", [True, False])
def test_what_an_engine_did_not_finish_is_not_kept(
    repository: Path, store: FeatureStore, video: Path, fails: bool
) -> None:
    recognizer, engine = FailingEngine.recognizer(repository)
    engine.fails = fails
    with pytest.raises((EngineError, InvalidInputError)):
        recognizer.classify(video, store=store)
    engine.frames.clear()
    with (
        pytest.raises((EngineError, FeatureStoreError)),
        FeatureReader(recognizer.model, video, store=store) as source,
    ):
        list(source)
    assert not entries(store)


def test_an_iteration_that_failed_does_not_go_on(repository: Path, store: FeatureStore, video: Path) -> None:
    """Features computed afterwards would stand at the wrong times in the store."""
    recognizer, _ = FailingEngine.recognizer(repository)
    with FeatureReader(recognizer.model, video, store=store) as reader:
        with pytest.raises(EngineError):
            list(reader)
        assert not list(reader)
    assert not entries(store)


def test_an_iteration_that_is_taken_up_again_keeps_every_crop_whole(
    recognizer: Recognizer, store: FeatureStore, video: Path
) -> None:
    options = ClassifyOptions(views=Views(4, 3))
    expected = essence(recognizer.classify(video, options))
    with FeatureReader(recognizer.model, video, crops=options.crops, store=store) as reader:
        for _ in reader:
            break
        list(reader)
    assert essence(recognizer.classify(video, options, store=store)) == expected
    assert len(entries(store)) == 3


def test_limits_hold_for_what_is_decoded(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    with pytest.raises(Exception, match="the limit is 1 s"):
        recognizer.classify(video, store=store, limits=Limits(duration_seconds=1))
    assert not entries(store)
