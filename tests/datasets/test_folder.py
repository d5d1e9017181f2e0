"""Folders of videos as people have them: links, cycles, other files, and what systems leave beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfavivit.datasets import read_items
from sfavivit.datasets.folder import EXTENSIONS, VIDEO_EXTENSIONS
from sfavivit.errors import AnnotationError
from sfavivit.video.ffmpeg import CONTAINERS
from sfavivit.video.reader import VideoReader
from tests.video_files import ffmpeg, sampling

AUDIO = {"mp3", "wav", "flac", "aac", "amr", "aiff"}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Return the ids of the videos and the notes."""
    notes: list[str] = []
    items = read_items(str(folder), root=folder / "ignored", note=notes.append)
    assert [item.video for item in items] == [f"{folder}/{item.id}" for item in items]
    assert all(item.labels == {} for item in items)
    return [item.id for item in items], notes


def test_videos_are_listed_in_order_and_others_counted(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.WEBM", "a/notes.txt", "a/b/c.mkv", "B.mov", ".hidden", "video", "a/x.TXT")
    assert listed(tmp_path) == (
        ["B.mov", "a/b/c.mkv", "a/z.WEBM", "b.mp4"],
        [f"'{tmp_path}': 4 left out as no videos: 2 .txt, 1 .hidden, 1 without an extension"],
    )
    (tmp_path / "a" / "x.TXT").unlink()
    touch(tmp_path, *(f"{k}.{k}" for k in range(9)))
    assert listed(tmp_path)[1][0].endswith(" 6 of other kinds")


def test_what_systems_leave_beside_videos_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "._a.mp4", "b/._c.mov", ".DS_Store", "Thumbs.db", "@eaDir/a.mp4/SYNOVIDEO.mp4")
    touch(tmp_path, "__MACOSX/._a.mp4", "b/$RECYCLE.BIN/old.avi")
    videos, (note,) = listed(tmp_path)
    assert videos == ["a.mp4"]
    assert note.startswith(f"'{tmp_path}': 7 left out as no videos: 2 ._* of macOS, ")
    assert all(
        kind in note for kind in ("1 .DS_Store", "1 .db", "1 @eaDir/", "1 __MACOSX/", "1 $RECYCLE.BIN/")
    )


def test_a_folder_of_videos_only_has_no_note(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert listed(tmp_path) == (["a.mp4"], [])


def test_links_are_followed_and_cycles_end(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    touch(here, "a.mp4", "z/b.mp4")
    touch(elsewhere, "c.mp4", "deep/d.mp4")
    (here / "linked").symlink_to(elsewhere)
    (here / "again").symlink_to(elsewhere / "deep")
    (here / "a_own").symlink_to(here / "z")
    (here / "z" / "up").symlink_to(here)
    (elsewhere / "back").symlink_to(here / "linked")
    (elsewhere / "self").symlink_to("self")
    (here / "e.mp4").symlink_to(elsewhere / "c.mp4")
    (here / "broken.mp4").symlink_to(elsewhere / "none.mp4")
    wanted = ["a.mp4", "again/d.mp4", "broken.mp4", "e.mp4", "linked/c.mp4", "z/b.mp4"]
    assert listed(here)[0] == wanted
    (tmp_path / "link").symlink_to(here)
    assert listed(tmp_path / "link")[0] == wanted


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"\xff.mp4"))
    with pytest.raises(AnnotationError, match="rename"):
        read_items(str(tmp_path))
    (tmp_path / "secret").mkdir(mode=0)
    if os.geteuid():
        with pytest.raises(AnnotationError, match="Permission denied"):
            read_items(str(tmp_path))


def test_every_container_of_the_decoder_has_extensions() -> None:
    demuxers = [name for key in EXTENSIONS for name in key.split(",")]
    assert sorted(demuxers) == sorted(set(CONTAINERS.split(",")) - AUDIO)
    assert all(extension == f".{extension[1:].lower()}" for extension in VIDEO_EXTENSIONS)


@pytest.mark.parametrize("name", ["a.vob", "a.m2v", "a.mpe", "a.m2t", "a.264", "a.y4m", "a.gif", "a.dv"])
def test_listed_videos_are_decoded(tmp_path: Path, name: str) -> None:
    options = {".m2t": "-f mpegts", ".mpe": "-f mpeg", ".y4m": "-pix_fmt yuv420p", ".dv": "-pix_fmt yuv420p"}
    source = "-f lavfi -i testsrc=size=720x576:rate=25:duration=0.4"
    ffmpeg(*source.split(), *options.get(Path(name).suffix, "").split(), tmp_path / name)
    (item,) = read_items(str(tmp_path))
    with VideoReader(item.video, sampling(), chunk_frames=2) as reader:
        assert next(iter(reader)).any()
