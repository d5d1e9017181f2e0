"""The choice of ffmpeg: one on PATH that can do the work in the sandbox, else the bundled one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[attr-defined]

from sfavivit.errors import DecodeError
from sfavivit.video.ffmpeg import find_ffmpeg
from sfavivit.video.reader import VideoReader
from tests.video_files import encode, numbered, numbers_shown, sampling

BUNDLED = str(Path(get_ffmpeg_exe()).resolve())  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder on PATH, empty at first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    find_ffmpeg.cache_clear()
    yield folder
    find_ffmpeg.cache_clear()


def install(folder: Path, script: str) -> None:
    (folder / "ffmpeg").write_text(script)
    (folder / "ffmpeg").chmod(0o755)


def test_the_bundled_one_without_any_on_path() -> None:
    assert find_ffmpeg().path == BUNDLED


def test_a_good_one_on_path_is_preferred(path_folder: Path) -> None:
    shutil.copy(BUNDLED, path_folder / "ffmpeg")
    assert find_ffmpeg().path == str(path_folder / "ffmpeg")


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\nexit 0\n",
        f"#!/bin/sh\nexec {BUNDLED} $@\n",  # would work, but needs to run a second program
        "not even a program",
    ],
)
def test_one_that_cannot_do_it_is_passed_over(path_folder: Path, script: str) -> None:
    install(path_folder, script)
    assert find_ffmpeg().path == BUNDLED


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("sfavivit.video.ffmpeg.get_ffmpeg_exe", nothing)
    with pytest.raises(DecodeError, match="install ffmpeg"):
        find_ffmpeg()


def test_the_callers_environment_does_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", numbered(10))
    monkeypatch.setenv("FFREPORT", f"file={tmp_path}/report.log:level=32")
    with VideoReader(path, sampling(), chunk_frames=8) as reader:
        assert numbers_shown(next(reader)) == [0, 2, 4, 6, 8]
    assert not (tmp_path / "report.log").exists()
