"""``sfavivit store``: what is damaged is found, what is asked is removed, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sfavivit.errors import UsageError
from sfavivit.features.entry import FeatureKey
from sfavivit.features.maintenance import LEFT_OVER_SECONDS, Keep, places, remove, stats, to_prune
from sfavivit.features.store import FeatureStore
from sfavivit.repository.manifest import Repository
from sfavivit.utils.atomic import atomic_write
from tests.cli.support import run
from tests.features.entries import DAMAGES, KEY, features

DAY = 86400


def key(number: int, model: str = KEY.spatial_sha256) -> FeatureKey:
    return replace(KEY, video_sha256=f"{number:064x}", spatial_sha256=model)


def path_of(store: FeatureStore, number: int) -> Path:
    return store.path(key(number).digest)


def age(path: Path, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at), follow_symlinks=False)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Ten entries, number k written k days ago."""
    store = FeatureStore(tmp_path / "store")
    for number in range(10):
        store.put(key(number), features(seed=number))
        age(path_of(store, number), number * DAY)
    return store


def left(store: FeatureStore) -> set[int]:
    return {number for number in range(10) if store.get(key(number))}


def test_verify_lists_what_is_wrong(store: FeatureStore) -> None:
    damaged = {}
    for number, name in enumerate(["half", "folder with content", "fifo", "link to a copy"]):
        path = damaged[name] = path_of(store, number)
        DAMAGES[name](path)
    shutil.copy(path_of(store, 9), path_of(store, 8))
    (store.root / "note\n.txt").touch()
    (path_of(store, 9).parent / "thumbs.db").touch()
    writing, leftover = (path_of(store, 9).parent / f".{c * 16}.tmp" for c in "ab")
    writing.touch()
    leftover.touch()
    age(leftover, 2 * LEFT_OVER_SECONDS)
    done = run("store", "verify", store.root)
    assert (done.returncode, done.stderr) == (1, "")
    *lines, last = done.stdout.splitlines()
    assert last == "10 entries, 5 damaged"
    found = {line.split(": ")[1]: line for line in lines}
    for path in [*damaged.values(), path_of(store, 8)]:
        assert found.pop(str(path)).startswith("damaged: ")
    assert found.pop(str(leftover)).startswith("leftover: ")
    copy = next(path for path in found if path.endswith(".copy"))
    assert {found.pop(copy)[:9], found.pop(f"{store.root}/note\\n.txt")[:9]} == {"foreign: "}
    assert [Path(path).name for path in found] == ["thumbs.db"]
    assert left(store) == {4, 5, 6, 7, 9}


def test_verify_can_remove_what_is_damaged(store: FeatureStore) -> None:
    DAMAGES["half"](path_of(store, 1))
    DAMAGES["folder with content"](path_of(store, 2))
    (store.root / "note.txt").touch()
    done = run("store", "verify", store.root, "--delete")
    assert done.returncode == 1
    assert done.stdout.count("(removed)") == 1
    again = run("store", "verify", store.root)
    assert again.stdout.splitlines()[-1] == "9 entries, 1 damaged"  # a folder is for people to remove
    assert (store.root / "note.txt").exists()
    assert (path_of(store, 2) / "precious").exists()


def test_a_store_in_order(store: FeatureStore) -> None:
    done = run("store", "verify", store.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10 entries, 0 damaged\n", "")


def test_stats(store: FeatureStore) -> None:
    store.put(replace(key(3), start_seconds=1.0), features(20))
    store.put(key(3, "a" * 64), features(30))
    DAMAGES["half a header"](path_of(store, 5))
    (store.root / "note.txt").touch()
    found = json.loads(run("store", "stats", store.root, "--json").stdout)
    sizes = [path.stat().st_size for path in store.root.glob("??/*") if path.stat().st_size > 100]
    assert (found["dtype"], found["videos"], found["damaged"]) == ("float32", 9, 1)
    assert found["total"] == {
        "entries": 11,
        "bytes": sum(sizes),
        "tubelets": 9 * 5 + 20 + 30,
        "video_seconds": pytest.approx((9 * 9 + 39 + 59) / 12.5),
    }
    entries = {model: usage["entries"] for model, usage in found["models"].items()}
    assert entries == {"2" * 64: 10, "a" * 64: 1}
    assert found["others"] == {"foreign": 1}
    assert found["newest"] - found["oldest"] == pytest.approx(9 * DAY, abs=60)
    shown = run("store", "stats", store.root).stdout
    assert "aaaaaaaaaaaaaaaa" in shown
    assert "9 different videos" in shown


def test_prune_by_age(store: FeatureStore) -> None:
    dry = run("store", "prune", store.root, "--older-than", "4.5", "--dry-run")
    assert left(store) == set(range(10))
    done = run("store", "prune", store.root, "--older-than", "4.5")
    assert left(store) == {0, 1, 2, 3, 4}
    assert done.returncode == 0
    assert done.stdout.startswith("5 entries and 0 leftovers removed")
    assert dry.stdout.splitlines()[-1].startswith("5 entries and 0 leftovers would be removed")
    assert set(dry.stdout.splitlines()[:-1]) == {str(path_of(store, k)) for k in range(5, 10)}


@pytest.mark.parametrize(("entries", "kept"), [(0, 0), (3, 3), (3.9, 3), (10, 10), (99, 10)])
def test_prune_by_size_takes_the_oldest(store: FeatureStore, entries: float, kept: int) -> None:
    size = path_of(store, 0).stat().st_size
    assert {path.stat().st_size for path in store.root.glob("??/*")} == {size}
    for place in to_prune(places(store), Keep(max_bytes=int(entries * size))):
        remove(place)
    assert left(store) == set(range(kept))


def test_prune_by_model(store: FeatureStore, repository: Path) -> None:
    mine = Repository.load(repository).manifest.spatial_sha256
    store.put(key(1, mine), features())
    DAMAGES["half a header"](path_of(store, 7))
    done = run("store", "prune", store.root, "--keep-model", repository)
    assert done.stdout.startswith("9 entries")
    assert left(store) == set()
    assert store.get(key(1, mine))
    assert path_of(store, 7).exists()


def test_prune_alone_sweeps_what_killed_writers_left(store: FeatureStore) -> None:
    names = (f".{'a' * 16}.tmp", f".{'b' * 16}.tmp", ".vimrc.tmp")
    old, new, foreign = (path_of(store, 9).parent / name for name in names)
    for path in (old, new, foreign):
        path.touch()
    for path in (old, foreign):
        age(path, 2 * LEFT_OVER_SECONDS)
    done = run("store", "prune", store.root)
    assert done.stdout.startswith("0 entries and 1 leftovers removed")
    assert (old.exists(), new.exists(), foreign.exists()) == (False, True, True)
    assert left(store) == set(range(10))


def test_prune_spares_folders_and_what_was_written_meanwhile(store: FeatureStore) -> None:
    found = {place.path: place for place in places(store)}
    rewritten, gone = (path_of(store, k) for k in (7, 8))
    store.put(key(7), features(seed=7))
    gone.unlink()
    for path in (rewritten, gone):
        remove(found[path])
    assert left(store) == set(range(10)) - {8}
    DAMAGES["folder with content"](path_of(store, 9))
    assert run("store", "prune", store.root, "--older-than", "0").returncode == 0
    assert (path_of(store, 9) / "precious").exists()


def test_entries_that_go_while_they_are_counted(store: FeatureStore) -> None:
    found = places(store)
    path_of(store, 0).unlink()
    assert (stats(found).total.entries, stats(found).damaged) == (9, 0)


@pytest.mark.parametrize("command", ["verify", "stats", "prune"])
def test_only_stores_are_looked_after(tmp_path: Path, command: str) -> None:
    done = run("store", command, tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "keep", [{"max_age_seconds": -1.0}, {"max_age_seconds": float("nan")}, {"max_bytes": -1}]
)
def test_what_cannot_be_kept(keep: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be at least 0"):
        Keep(**keep)  # type: ignore[arg-type]


def test_a_write_that_is_not_to_replace(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        atomic_write(tmp_path / "file", content, replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
