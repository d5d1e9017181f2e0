"""Parts of a video, and videos that are still arriving."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.errors import (
    EmptyVideoError,
    ForbiddenFormatError,
    InvalidInputError,
    NotStreamableError,
    UsageError,
    VideoLimitError,
)
from sfavivit.types import Frames
from sfavivit.video.pipe import VideoPipe
from sfavivit.video.reader import Limits, VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment
from tests.video_files import H264, encode, ffmpeg, numbered, numbers_shown, sampling

FASTSTART = (*H264, "-movflags", "+faststart")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of 25 fps; picture n shows n."""
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", numbered(250), options=FASTSTART)


def shown(source: Source, fps: float = 12.5, *, limits: Limits | None = None, **times: float) -> list[int]:
    segment = VideoSegment(source, **times)
    with VideoReader(segment, sampling(fps), chunk_frames=16, limits=limits) as reader:
        frames = list(reader)
        assert reader.damage is None
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


def test_a_part_equals_the_same_frames_of_the_whole(video: Path) -> None:
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
    """A part from frame to frame has these frames, whichever way its ends were rounded."""
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
    ("start", "end"), [(-1.0, None), (float("nan"), None), (1e10, None), (2.0, 2.0), (0.0, float("inf"))]
)
def test_parts_that_cannot_be(video: Path, start: float, end: float | None) -> None:
    with pytest.raises(UsageError, match="the (start|end) must be"):
        VideoSegment(video, start, end)


def test_times_of_a_part_are_those_of_the_video(recognizer: Recognizer, parity_video: Path) -> None:
    answer = recognizer.classify(VideoSegment(parity_video, start_seconds=0.4, end_seconds=1.2))
    assert answer.frames_used == 10
    for outputs in answer.heads.values():
        for result in outputs.values():
            assert result.timeline[0].start_seconds == pytest.approx(0.4)
            assert result.timeline[-1].end_seconds == pytest.approx(1.2)


# A pipe


def feed(pipe: VideoPipe, pieces: list[bytes]) -> None:
    for piece in pieces:
        if not pipe.write(piece):
            return
    pipe.finish()


def piped(content: bytes, size: int) -> list[Frames]:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    with VideoPipe("pipe") as pipe:
        thread = threading.Thread(target=feed, args=(pipe, pieces))
        thread.start()
        try:
            with VideoReader(pipe.source, sampling(), chunk_frames=16) as reader:
                return list(reader)
        finally:
            pipe.close()
            thread.join()


@pytest.mark.parametrize("size", [1, 777, 1 << 20])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_pipe_gives_the_frames_of_the_file(video: Path, tmp_path: Path, suffix: str, size: int) -> None:
    path = video
    if suffix != ".mp4":
        path = tmp_path / f"a{suffix}"
        ffmpeg("-i", video, "-c", "copy", path)
    with VideoReader(path, sampling(), chunk_frames=16) as reader:
        expected = np.concatenate(list(reader))
    content = path.read_bytes()
    step = max(size, len(content) // 5000)  # byte by byte would take long, and prove no more
    assert np.array_equal(np.concatenate(piped(content, step)), expected)


def test_frames_come_before_the_file_is_complete(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", numbered(250))
    content = path.read_bytes()
    with VideoPipe("pipe") as pipe:
        pipe.write(content[: len(content) * 3 // 4])
        with VideoReader(pipe.source, sampling(), chunk_frames=4) as reader:
            assert numbers_shown(next(reader)) == [0, 2, 4, 6]


def index_last(video: Path, folder: Path) -> bytes:
    ffmpeg("-i", video, "-c", "copy", folder / "last.mp4")
    return (folder / "last.mp4").read_bytes()


@pytest.mark.parametrize("size", [1, 3, 64, 1 << 20])
def test_an_index_at_the_end_is_refused_at_once(video: Path, tmp_path: Path, size: int) -> None:
    content = index_last(video, tmp_path)
    with VideoPipe("pipe") as pipe, pytest.raises(NotStreamableError, match="faststart"):
        for at in range(0, 400, size):
            assert pipe.write(content[at : at + size])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EmptyVideoError),
        (b"#EXTM3U\nfile", ForbiddenFormatError),
        (b"ffconcat version 1", ForbiddenFormatError),
    ],
)
def test_what_goes_into_the_pipe_is_looked_at(content: bytes, error: type[Exception]) -> None:
    for size in (1, 5000):
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        with VideoPipe("pipe") as pipe, pytest.raises(error):
            feed(pipe, pieces)


def test_the_pipe_holds_the_writer_back_and_lets_it_go() -> None:
    with VideoPipe("pipe") as pipe:
        source = pipe.source
        ended: list[bool] = []
        thread = threading.Thread(target=lambda: ended.append(pipe.write(bytes(64 << 20))))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        pipe.close()
        thread.join(2)
        assert ended == [False]
    os.close(source.descriptor)


def test_an_open_file_is_taken_over(video: Path) -> None:
    with video.open("rb") as file:
        source = OpenSource(os.dup(file.fileno()), "the upload")
        assert shown(source) == shown(video)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(source.descriptor)


def boxes(sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield (8 + size).to_bytes(4, "big") + b"free" + bytes(size)


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), max_size=5), step=st.integers(1, 50), large=st.booleans())
def test_boxes_are_followed_however_they_are_cut(sizes: list[int], step: int, large: bool) -> None:
    """Boxes to skip, then the media: found, and exactly there."""
    content = b"\0\0\0\x10ftypisom\0\0\0\0" + b"".join(boxes(sizes))
    if large:
        content += b"\0\0\0\1wide" + (16 + 5).to_bytes(8, "big") + bytes(5)
    before, content = len(content), content + b"\0\0\0\x20mdat" + bytes(24)
    with VideoPipe("pipe") as pipe:
        for at in range(0, len(content), step):
            try:
                pipe.write(content[at : at + step])
            except NotStreamableError:
                assert at < before + 8 <= at + step
                return
    raise AssertionError("not found")
