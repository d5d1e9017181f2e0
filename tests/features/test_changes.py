"""Videos that change while their features are taken: what is stored is of the content it is stored for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfavivit import Recognizer
from sfavivit.errors import VideoNotFoundError
from sfavivit.features import digest as video_digest
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from tests.conftest import wide_video
from tests.features.videos import entries, essence


def write_again(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(last)


def write_and_hide(path: Path) -> None:
    """Write, and put the time of modification back, like some programs."""
    status = path.stat()
    write_again(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0" * 100)


def read_while_it_changes(
    recognizer: Recognizer, path: Path, store: FeatureStore, change: Callable[[Path], None]
) -> None:
    """Change the file after the first chunk: the decoder is a few chunks ahead at most, of ten."""
    with FeatureReader(recognizer.model, path, store=store) as source:
        for count, _ in enumerate(source):
            if count == 0:
                change(path)
    assert not entries(store)
    assert not source.from_store


@pytest.mark.parametrize(
    "change", [write_again, write_and_hide, append, lambda path: os.truncate(path, 5000)]
)
def test_a_video_that_changes_while_it_is_read_is_not_kept(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = Path(shutil.copy(video, tmp_path / "changing.mp4"))
    read_while_it_changes(recognizer, path, store, change)


def test_a_change_that_the_clock_does_not_show_is_found_in_the_content(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = video_digest._Version(1, 2, 3, 4, time.time_ns() + 3600 * 10**9)
    monkeypatch.setattr(video_digest._Version, "of", lambda _: now)
    path = Path(shutil.copy(video, tmp_path / "changing.mp4"))
    read_while_it_changes(recognizer, path, store, append)
    recognizer.classify(path, store=store)
    assert len(entries(store)) == 1


def test_a_file_that_stays_as_it_is_is_hashed_once(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists name many parts of one video. A file written to just now is not trusted to stay."""
    path = Path(shutil.copy(video, tmp_path / "video.mp4"))
    read: list[object] = []
    real = video_digest.VideoDigest._read

    def noting(digest: video_digest.VideoDigest) -> str | None:
        read.append(digest)
        return real(digest)

    monkeypatch.setattr(video_digest.VideoDigest, "_read", noting)
    for count in (2, 3):  # both before and after decoding, then before
        recognizer.classify(path, store=store)
        assert len(read) == count
    monkeypatch.setattr(video_digest, "RECENT_SECONDS", -3600.0)
    for _ in range(3):
        recognizer.classify(path, store=store)
        assert len(read) == 4
    write_and_hide(path)
    recognizer.classify(path, store=store)
    assert len(read) == 5


def test_no_more_digests_are_remembered_than_memory_is_for(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_digest, "RECENT_SECONDS", -3600.0)
    monkeypatch.setattr(video_digest, "_MAX_REMEMBERED", 3)
    monkeypatch.setattr(video_digest, "_remembered", {})
    for number in range(5):
        recognizer.classify(shutil.copy(video, tmp_path / f"{number}.mp4"), store=store)
    assert len(video_digest._remembered) == 3


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_a_video_that_goes_between_hashing_and_decoding(
    recognizer: Recognizer, tmp_path: Path, video: Path, what: str
) -> None:
    path = Path(shutil.copy(video, tmp_path / "video.mp4"))
    new = wide_video(tmp_path / "new.mp4", 120, seed=8)
    expected, of_new = (recognizer.classify(p) for p in (path, new))

    class Store(FeatureStore):
        def get(self, key: FeatureKey) -> StoredFeatures | None:
            if what == "deleted":
                path.unlink()
            elif new.exists():
                new.replace(path)
            return super().get(key)

    store = Store(tmp_path / "store")
    assert essence(recognizer.classify(path, store=store)) == essence(expected)
    if what == "deleted":
        with pytest.raises(VideoNotFoundError):
            recognizer.classify(path, store=store)
    else:
        for _ in range(2):
            answer = recognizer.classify(path, store=store)
            assert essence(answer) == essence(replace(of_new, video=str(path)))
