"""Curves over time: what a bin holds, that memory has a bound, and which labels get a lane."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.results import LabelScore, OutputResult, Segment
from sfavivit.reports.curves import MAX_BINS, MAX_LANES, NO_LANE, CurveBuilder, CurveRecorder
from sfavivit.reports.video_report import recorder_for, video_report
from tests.conftest import random_frames
from tests.video_files import encode


@given(total=st.integers(1, 80), step=st.integers(1, 20), max_bins=st.sampled_from([4, 16, 128]))
def test_a_bin_is_the_mean_over_its_tubelets(total: int, step: int, max_bins: int) -> None:
    scores = np.random.default_rng(total).dirichlet(np.ones(3), total)
    builder = CurveBuilder(3, max_bins)
    for first in range(0, total, step):
        builder.add(first, scores[first : first + step])

    size = builder.bin_tubelets
    means = builder.means()
    assert len(means) == -(-total // size) <= max_bins
    assert size == 1 or total > max_bins * size // 2, "no coarser than it must be"
    for number, mean in enumerate(means):
        np.testing.assert_allclose(mean, scores[number * size : (number + 1) * size].mean(0))


def test_lanes_are_those_of_the_timeline(recognizer: Recognizer, tmp_path: Path) -> None:
    """A lane wins where the timeline, which is made elsewhere, has its label."""
    video = encode(tmp_path / "a.mp4", random_frames(301, seed=3).repeat(2, 1).repeat(2, 2))
    recorder = recorder_for(recognizer)
    answer = recognizer.classify(video, ClassifyOptions(top_k=2), on_scores=recorder)
    report = video_report(recognizer, answer, recorder)
    assert [output.title for output in report.outputs] == ["default", "long / verb", "long / noun"]
    for output in report.outputs:
        curves = output.curves
        assert curves is not None
        assert len(curves.winners) == -(-answer.frames_used // 2)
        for segment in output.result.timeline:
            first = round(segment.start_seconds / curves.bin_seconds)
            stop = -round(-segment.end_seconds / curves.bin_seconds - 0.25)
            (lane,) = set(curves.winners[first:stop].tolist())
            assert curves.lanes[lane].label == segment.label
            confidence = curves.lanes[lane].confidences[first:stop].mean()
            assert confidence == pytest.approx(segment.confidence)
        winners = list(dict.fromkeys(segment.label for segment in output.result.timeline))
        top = [score.label for score in output.result.labels if score.label not in winners]
        assert [lane.label for lane in curves.lanes] == winners + top
        assert curves.labels_left_out == 0


def test_a_long_video_of_many_labels_has_a_bound() -> None:
    """In twelve hours 100 labels win, the first of them for longest."""
    classes, hours = 100, 12
    recorder = CurveRecorder(0.16)
    rng = np.random.default_rng(0)
    ends = np.linspace(0, 1, classes + 1)[1:] ** 0.7 * hours * 3600
    for first in range(0, int(hours * 3600 / 0.16), 64):
        recorder("h", "", first, rng.dirichlet(np.ones(classes), 64))
    whole = np.linspace(1, 0, classes, dtype=np.float32)
    bounds = pairwise([0.0, *ends.tolist()])
    segments = tuple(Segment(start, end, str(k), 1.0) for k, (start, end) in enumerate(bounds))
    result = OutputResult((LabelScore("0", 0.5),), segments, whole)
    curves = recorder.curves("h", "", result, [str(k) for k in range(classes)])
    assert curves is not None
    assert MAX_BINS / 2 < len(curves.winners) <= MAX_BINS
    assert len(curves.lanes) == MAX_LANES and curves.labels_left_out == classes - MAX_LANES
    assert NO_LANE in curves.winners
    middle = curves.winners[len(curves.winners) // 4]
    at = len(curves.winners) // 4 * curves.bin_seconds
    expected = str(np.searchsorted(ends, at))
    assert middle == NO_LANE or abs(int(curves.lanes[middle].label) - int(expected)) <= 1


def test_views_have_no_curves() -> None:
    recorder = CurveRecorder(0.16)
    result = OutputResult((LabelScore("a", 0.5),), (), np.zeros(2, np.float32))
    assert recorder.curves("h", "", result, ["a", "b"]) is None
