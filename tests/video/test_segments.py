"""Segments of a video: their frames, times and limits."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.errors import InvalidInputError, UsageError, VideoLimitError
from sfavivit.video.limits import DEFAULT_LIMITS, Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment
from tests.video_files import encode, numbered, numbers_shown, sampling


def shown(source: Source, fps: float = 12.5, *, limits: Limits = DEFAULT_LIMITS, **times: Any) -> list[int]:
    segment = VideoSegment(source, **times)
    with VideoReader(segment, sampling(fps), chunk_frames=16, limits=limits) as reader:
        frames = list(reader)
        assert reader.warning is None
    return numbers_shown(np.concatenate(frames)) if frames else []


@pytest.mark.parametrize("fps", [12.5, 25.0, 30000 / 1001, 4.0])
@settings(max_examples=8)
@given(start=st.floats(0, 9.5), length=st.floats(0.05, 11))
def test_frame_k_is_on_display_at_start_plus_k_periods(
    video: Path, fps: float, start: float, length: float
) -> None:
    times = np.arange(0, length, 1 / fps) + start
    times = times[times < 10 - 1e-3]
    # 2 ms is the lateness that the decoder forgives; times that close to a new picture may show either.
    early, late = (np.floor((times + shift) * 25) for shift in (-0.0001, 0.0021))
    found = shown(video, fps, start_seconds=start, end_seconds=start + length)
    if len(found) == len(times) + 1:  # the picture on display when the video ends
        found = found[:-1]
    assert abs(len(found) - len(times)) <= 1
    count = min(len(found), len(times))
    assert all((early[:count] <= found[:count]) & (found[:count] <= np.minimum(late[:count], 249)))


def test_a_segment_equals_the_same_frames_of_the_whole(video: Path) -> None:
    whole = shown(video)
    assert shown(video, start_seconds=4.0) == whole[50:]
    assert shown(video, start_seconds=4.0, end_seconds=6.0) == whole[50:75]
    assert shown(video, end_seconds=0.01) == whole[:1]
    assert shown(video, end_seconds=99) == whole


@pytest.mark.parametrize("fps", [15.0, 24.0, 30000 / 1001, 23.976])
@pytest.mark.parametrize(("first", "last"), [(2, 4), (3, 4), (7, 31), (0, 1)])
def test_periods_that_are_no_whole_microseconds_add_up(
    video: Path, fps: float, first: int, last: int
) -> None:
    """A segment from frame to frame has these frames, whichever way its ends were rounded."""
    whole = shown(video, fps)
    ends = [(round(first / fps, digits), round(last / fps, digits)) for digits in (6, 9)]
    ends.append((math.floor(1e6 * first / fps) / 1e6, math.ceil(1e6 * last / fps) / 1e6))
    for start, end in ends:
        assert shown(video, fps, start_seconds=start, end_seconds=end) == whole[first:last]


def test_a_start_behind_the_end_is_said(video: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"ends at second 10\.0, before the start \(11 s\)"):
        shown(video, start_seconds=11)


def test_skipping_counts_for_the_duration_limit(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.h264", numbered(100))
    with pytest.raises(VideoLimitError, match="longer than the limit of 2 s"):
        shown(path, start_seconds=3.0, limits=Limits(duration_seconds=2.0))


@pytest.mark.parametrize(
    ("start", "end"),
    [(-1.0, None), (float("nan"), None), (1e10, None), (2.0, 2.0), (0.0, 1e10), (0.0, float("inf"))],
)
def test_invalid_segments(video: Path, start: float, end: float | None) -> None:
    with pytest.raises(UsageError, match="the (start|end) must be"):
        VideoSegment(video, start, end)


def test_times_of_a_segment_are_those_of_the_video(recognizer: Recognizer, parity_video: Path) -> None:
    answer = recognizer.classify(VideoSegment(parity_video, 0.4, 1.2))
    assert answer.frames_used == 10
    assert answer.duration_seconds == pytest.approx(0.8)
    for outputs in answer.heads.values():
        for result in outputs.values():
            assert result.timeline[0].start_seconds == pytest.approx(0.4)
            assert result.timeline[-1].end_seconds == pytest.approx(1.2)


def test_an_open_file_is_taken_over(video: Path) -> None:
    with video.open("rb") as file:
        source = OpenSource(os.dup(file.fileno()), "the upload")
        assert shown(source) == shown(video)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(source.descriptor)
