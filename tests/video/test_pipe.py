"""Videos that are still arriving, through a pipe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.errors import EmptyVideoError, ForbiddenFormatError, NotStreamableError, VideoError
from sfavivit.types import Frames
from sfavivit.video.pipe import VideoPipe
from sfavivit.video.reader import VideoReader
from tests.video_files import encode, ffmpeg, numbered, numbers_shown, sampling


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


def test_a_pipe_that_is_closed_has_no_video() -> None:
    """A request may be cancelled before its decoder starts."""
    with VideoPipe("pipe") as pipe:
        pipe.close()
        with pytest.raises(VideoError, match="^pipe: cannot be opened: Bad file descriptor$"):
            VideoReader(pipe.source, sampling(), chunk_frames=4)


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
