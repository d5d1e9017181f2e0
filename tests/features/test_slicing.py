"""Parts of a video as slices of the whole video's features: the same bits, or decoded."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.config import Sampling
from sfavivit.datasets import VideoItem
from sfavivit.errors import InvalidInputError
from sfavivit.features.entry import FeatureKey
from sfavivit.features.reader import FeatureReader
from sfavivit.features.slicing import align_to_tubelets, segment_slice, tubelet_rate
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.types import Features
from sfavivit.video.source import VideoSegment
from sfavivit.video.timebase import periods_in
from tests.features.videos import entries, essence, forbid_decoders

TUBELET_SECONDS = 0.16
RATES = st.sampled_from([12.5, 15.0, 25.0, 30000 / 1001, 7.3])


@pytest.mark.parametrize("views", [None, Views(2, 3)], ids=str)
def test_a_part_on_the_grid_is_a_slice_of_the_whole(
    recognizer: Recognizer,
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    video: Path,
    views: Views | None,
) -> None:
    parts = [(3, 9), (0, 1), (20, 37), (20, 38), (37, 60), (11, None), (0, 99)]
    segments = [VideoSegment(video, a * TUBELET_SECONDS, b and b * TUBELET_SECONDS) for a, b in parts]
    options = ClassifyOptions(views=views)
    expected = [recognizer.classify(segment, options) for segment in segments]
    recognizer.classify(video, options, store=store)
    kept = len(entries(store))
    forbid_decoders(monkeypatch)
    for segment, from_video in zip(segments, expected, strict=True):
        assert essence(recognizer.classify(segment, options, store=store)) == essence(from_video)
    assert len(entries(store)) == kept


@given(fps=RATES, data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_any_rate(
    recognizer: Recognizer, tmp_path: Path, video: Path, fps: float, data: st.DataObject
) -> None:
    sampling = Sampling(
        fps, recognizer.manifest.sampling.shortest_side, recognizer.manifest.sampling.crop_size
    )
    store = FeatureStore(tmp_path / f"store {fps}")

    def features(start: float = 0.0, end: float | None = None, *, known: bool = True) -> FeatureReader:
        source = FeatureReader(
            recognizer.model,
            VideoSegment(video, start, end),
            sampling=sampling,
            store=store if known else None,
        )
        found.append(np.concatenate([chunk.features for chunk in source]))
        return source

    found: list[Features] = []
    features()
    rate = tubelet_rate(sampling, recognizer.manifest.dimensions.tubelet_frames)
    start = data.draw(st.floats(0, 5), label="start")
    end = data.draw(st.none() | st.floats(start + 0.001, 7), label="end")
    part = align_to_tubelets(VideoItem("", "", {}, start, end), rate)
    start, end = part.start_seconds, part.end_seconds
    computed, sliced = features(start, end, known=False), features(start, end)
    assert (computed.from_store, sliced.from_store) == (False, True)
    assert computed.frames_used == sliced.frames_used
    _, decoded, stored = found
    np.testing.assert_array_equal(decoded, stored)


@pytest.mark.parametrize("part", [(0.1, 3.2), (0.16, 3.1), (0.162, None)])
def test_a_part_off_the_grid_is_decoded_and_kept(
    recognizer: Recognizer, store: FeatureStore, video: Path, part: tuple[float, float | None]
) -> None:
    recognizer.classify(video, store=store)
    segment = VideoSegment(video, *part)
    answer = recognizer.classify(segment, store=store)
    assert answer.timings.decode_seconds > 0
    assert essence(answer) == essence(recognizer.classify(segment))
    assert len(entries(store)) == 2


def test_a_part_of_a_damaged_video_is_decoded(
    recognizer: Recognizer, store: FeatureStore, damaged_video: Path
) -> None:
    """Its warning says where the frames of the part end, not those of the video."""
    recognizer.classify(damaged_video, store=store)
    answer = recognizer.classify(VideoSegment(damaged_video, end_seconds=0.32), store=store)
    assert answer.timings.decode_seconds > 0


def test_a_part_behind_the_end_is_the_same_error(
    recognizer: Recognizer, store: FeatureStore, video: Path
) -> None:
    recognizer.classify(video, store=store)
    with pytest.raises(InvalidInputError, match=r"ends at second 6\.0, before the start \(8 s\)"):
        recognizer.classify(VideoSegment(video, start_seconds=8.0), store=store)


@given(fps=RATES, frames=st.integers(1, 4), start=st.floats(0, 1e5), length=st.none() | st.floats(0.001, 1e5))
def test_a_part_becomes_the_tubelets_that_it_touches(
    fps: float, frames: int, start: float, length: float | None
) -> None:
    """On the grid, around the part, by less than a tubelet at each end; a second time changes nothing.

    Up to a microsecond and the rounding to one.
    """
    sampling = Sampling(fps, 8, 8)
    rate = tubelet_rate(sampling, frames)
    tubelet, close = float(1 / rate), 1.6e-6
    end = None if length is None else start + length
    part = align_to_tubelets(VideoItem("", "", {}, start, end), rate)
    key = FeatureKey("", "", sampling, start_seconds=part.start_seconds, end_seconds=part.end_seconds)
    assert segment_slice(key, rate) is not None
    assert -close <= start - part.start_seconds < tubelet + close
    if end is None or part.end_seconds is None:
        assert (end, part.end_seconds) == (None, None)
    else:
        assert -close <= part.end_seconds - end < tubelet + close
    assert align_to_tubelets(part, rate) == part


def test_the_latest_parts_there_can_be() -> None:
    for start, end in ((1e9, None), (1e9 - 1e-3, 1e9), (0.0, 1e9)):
        align_to_tubelets(VideoItem("", "", {}, start, end), tubelet_rate(Sampling(7.3, 8, 8), 2))


def test_a_damaged_whole_is_said_once_and_its_parts_are_decoded(
    recognizer: Recognizer, store: FeatureStore, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer.classify(video, store=store)
    [path] = entries(store)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for part in range(3):
        segment = VideoSegment(video, part * TUBELET_SECONDS, 3.2)
        answer = recognizer.classify(segment, store=store)
        assert essence(answer) == essence(recognizer.classify(segment))
    [record] = caplog.records
    assert "store the whole video again: sfavivit features --whole" in record.getMessage()
    recognizer.classify(video, store=store)  # which replaces it
    assert (
        recognizer.classify(VideoSegment(video, start_seconds=3.2), store=store).timings.decode_seconds == 0
    )


@given(rate=st.fractions(Fraction(1, 1000), 240), periods=st.integers(0, 10**7), off=st.integers(-1, 1))
def test_a_microsecond_more_or_less_is_the_same_period(rate: Fraction, periods: int, off: int) -> None:
    near = round(periods / rate * 1_000_000)
    exact = periods / rate * 1_000_000
    if near + off >= 0 and abs(near + off - exact) <= 1:
        assert periods_in(near + off, rate) == (periods, 0)
