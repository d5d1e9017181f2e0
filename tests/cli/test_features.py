"""``sfavivit features``: the store is filled with what it lacks, and scoring needs no more than it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sfavivit import Recognizer
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.video.source import VideoSegment
from tests.cli.support import run
from tests.conftest import random_frames
from tests.features.videos import entries, essence, forbid_decoders
from tests.scoring.support import rows_in
from tests.video_files import encode

SAME = ("id", "head", "logits", "labels", "timeline", "frames_used")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three videos, one of them again, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        encode(folder / f"{seed}.mp4", random_frames(50, seed).repeat(4, 1).repeat(4, 2))
    shutil.copy(folder / "0.mp4", folder / "again.mp4")
    (folder / "broken\n.mp4").write_text("this is no video")
    return folder


def test_a_store_is_filled_once(
    repository: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    options = ("--workers", "2", "--threads", "1", "--json")
    arguments = ("features", videos, "--store", store, "--repository", repository, *options)
    first = run(*arguments)
    assert first.returncode == 1
    assert first.stderr.splitlines()[0].startswith(f"error: '{videos}/broken\\n.mp4'")
    assert len(first.stderr.splitlines()) == 1
    counts = json.loads(first.stdout)
    assert (counts["videos"], counts["stored"] + counts["found"], counts["failed"]) == (5, 4, 1)
    assert counts["devices"] == {"cpu": 4}
    kept = {path: path.stat().st_mtime_ns for path in entries(FeatureStore(store))}
    assert len(kept) == 3

    second = json.loads(run(*arguments).stdout)
    assert (second["stored"], second["found"], second["failed"]) == (0, 4, 1)
    assert {path: path.stat().st_mtime_ns for path in entries(FeatureStore(store))} == kept

    recognizer = Recognizer.load(repository, threads=1)
    expected = essence(recognizer.classify(videos / "1.mp4"))
    forbid_decoders(monkeypatch)
    assert essence(recognizer.classify(videos / "1.mp4", store=FeatureStore(store))) == expected


def test_crops_and_type(
    repository: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listed = tmp_path / "store", tmp_path / "list.csv"
    listed.write_text("video,start_seconds,end_seconds\n2.mp4,0.5,1.5\n")
    done = run(
        *("features", listed, "--root", videos, "--store", store, "--repository", repository),
        *("--views", "4x3", "--dtype", "float16", "--workers", "1"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{store}: 1 videos stored, 0 were there, in 0:00:")
    assert FeatureStore(store).dtype == "float16"
    assert len(entries(FeatureStore(store))) == 3
    forbid_decoders(monkeypatch)
    Recognizer.load(repository).classify(
        VideoSegment(videos / "2.mp4", start_seconds=0.5, end_seconds=1.5),
        ClassifyOptions(views=Views(4, 3)),
        store=FeatureStore(store),
    )


def test_whole_videos_serve_their_parts(repository: Path, videos: Path, tmp_path: Path) -> None:
    """Stored once a video; then every part that is moved to the grid is scored without decoding."""
    store, listed = tmp_path / "store", tmp_path / "list.csv"
    parts = ["0.mp4,0.1,0.9", "0.mp4,0.5,1.3", "1.mp4,1.0,", "0.mp4,1.21,1.24", "1.mp4,,0.7"]
    listed.write_text("\n".join(["video,start_seconds,end_seconds", *parts]))
    shared = ("--root", videos, "--repository", repository, "--workers", "1", "--threads", "1", "--json")
    filled = json.loads(run("features", listed, "--whole", "--store", store, *shared).stdout)
    assert (filled["videos"], filled["stored"]) == (2, 2)

    rows = {}
    for out, options in {"decoded": (), "stored": ("--features", store)}.items():
        done = run("score", listed, "--align-to-tubelets", *options, "--out", tmp_path / out, *shared)
        assert (done.returncode, done.stderr) == (0, "")
        rows[out] = sorted(rows_in(tmp_path / out), key=lambda row: (row["id"], row["head"]))
    assert all(row["decode_seconds"] > 0 for row in rows["decoded"])
    assert all(row["decode_seconds"] == 0 for row in rows["stored"])
    assert len(entries(FeatureStore(store))) == 2
    for decoded, stored in zip(rows["decoded"], rows["stored"], strict=True):
        assert [decoded[name] for name in SAME] == [stored[name] for name in SAME]
    starts = {row["timeline"][0]["start_seconds"] for row in rows["stored"]}
    assert sorted(starts) == pytest.approx([0, 0.48, 0.96, 1.12])

    mixed = run("score", listed, "--out", tmp_path / "stored", *shared)
    assert mixed.returncode == 2
    assert "align_to_tubelets (true before, none now)" in mixed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--dtype", "int8"), 2, "dtype 'int8' must be float32 or float16"),
        (("--views", "4x2"), 2, "views 4x2 cannot be"),
        (("--shard", "3/2"), 2, "shard '3/2'"),
        (("--store", "setup.py/store"), 1, "feature store"),
    ],
)
def test_wrong_use_is_one_line(
    repository: Path, videos: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "setup.py").touch()
    given = [str(tmp_path / a) if a.startswith("setup.py") else a for a in arguments]
    done = run("features", videos, "--store", tmp_path / "store", "--repository", repository, *given)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
