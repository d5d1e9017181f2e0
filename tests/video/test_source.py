"""Sources without frames: each cause has its own error, on one line. File names mean nothing."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from sfavivit.errors import (
    EmptyVideoError,
    ForbiddenFormatError,
    NotAFileError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    UsageError,
    VideoError,
    VideoNotFoundError,
    VideoPermissionError,
)
from sfavivit.video.limits import Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import Source, open_source
from tests.users import ordinary_user
from tests.video_files import encode, ffmpeg, numbered, sampling


def error_of(source: Source) -> VideoError:
    with pytest.raises(VideoError) as caught, VideoReader(source, sampling(), chunk_frames=4) as reader:
        list(reader)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(source if not isinstance(source, bytes) else b""))
    return caught.value


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", EmptyVideoError),
        (b"x", NotAVideoError),
        (b"just some text\n" * 50, NotAVideoError),
        (bytes(50_000), NotAVideoError),
        (b"#EXTM3U\nother.ts\n", ForbiddenFormatError),
        (b"\xef\xbb\xbf  ffconcat version 1.0\nfile a.mp4\n", ForbiddenFormatError),
        (b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", NotAVideoError),
    ],
)
def test_what_is_not_a_video(tmp_path: Path, content: bytes, kind: type[VideoError]) -> None:
    path = tmp_path / "renamed.mp4"
    path.write_bytes(content)
    assert type(error_of(path)) is kind
    assert str(path) in str(error_of(path))
    assert type(error_of(content)) is kind


def test_no_pictures(tmp_path: Path) -> None:
    picture = encode(tmp_path / "cover.png", numbered(1), options=("-frames:v", "1"))
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    streams = ("-map", "0", "-map", "1", "-disposition:v", "attached_pic", "-c:v", "copy")
    cover: tuple[str | Path, ...] = ("-i", picture, *streams)
    for name in ("a.mp3", "a.m4a", "a.wav", "cover.mp3", "cover.m4a"):
        ffmpeg(*sound, *(cover if name.startswith("cover") else ()), tmp_path / name)
        assert type(error_of(tmp_path / name)) is NoVideoStreamError, name
    assert type(error_of(picture)) is NotAVideoError


def test_an_mp4_cut_before_its_index(tmp_path: Path) -> None:
    content = encode(tmp_path / "a.mp4", numbered(50)).read_bytes()
    assert type(error_of(content[: len(content) // 2])) is TruncatedVideoError


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "fifo", tmp_path / "socket", Path("/dev/zero")):
            assert type(error_of(path)) is NotAFileError, path


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    names = ("missing", "file/below", "circle", "x" * 300, "null\0", "two\nlines", "http://127.0.0.1/a.mp4")
    for name in names:
        assert type(error_of(f"{tmp_path}/{name}")) is VideoNotFoundError, name


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.mp4"
        path.write_bytes(b"content")
        with ordinary_user():
            os.close(open_source(path))
        path.chmod(0)
        with ordinary_user():
            assert type(error_of(path)) is VideoPermissionError


@pytest.mark.parametrize(
    "name",
    [
        "-rf.mp4",
        "%d.mp4",
        "a:b.mp4",
        "new\nline.mp4",
        "concat:a|b.mp4",
        "pipe:0",
        "été \U0001f3ac.mp4",
        b"\xff.mp4",
    ],
)
def test_file_names_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
    monkeypatch.chdir(tmp_path)
    encode(Path("plain.mp4"), numbered(5)).rename(named := os.fsdecode(name))
    with VideoReader(named, sampling(), chunk_frames=8) as reader:
        assert sum(map(len, reader)) == 3


def test_impossible_limits_and_chunks_are_refused(tmp_path: Path) -> None:
    bad = {"pixels": 0, "stall_seconds": -1, "duration_seconds": float("nan"), "memory_bytes": 1 << 20}
    for name, value in bad.items():
        with pytest.raises(UsageError, match=name):
            Limits(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chunk_frames"):
        VideoReader(tmp_path, sampling(), chunk_frames=0)
