"""A feature store whose writers die, race, may not write, or find the disk full."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest

from sfavivit.errors import FeatureStoreError
from sfavivit.features.store import FeatureStore
from sfavivit.utils.atomic import TEMPORARY_NAME
from tests.features.entries import KEY, OTHER, features, same
from tests.users import ordinary_user


def test_content_is_on_disk_before_its_name_and_names_before_put_returns(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.path(KEY.digest)
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))  # noqa: PTH115
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put(KEY, features())
    root, (temporary, before), folder = synced
    assert root == (str(store.root), False)
    assert TEMPORARY_NAME.fullmatch(Path(temporary).name)
    assert not before
    assert folder == (str(path.parent), True)


def test_permissions_are_what_the_umask_gives(store: FeatureStore) -> None:
    before = os.umask(0o027)
    try:
        store.put(KEY, features())
    finally:
        os.umask(before)
    assert store.path(KEY.digest).stat().st_mode & 0o777 == 0o640


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder of an ordinary user, whom the test runs as."""
    with ordinary_user():
        folder = Path(mkdtemp())
        try:
            yield folder
        finally:
            folder.chmod(0o755)
            for path in folder.rglob("*"):
                path.chmod(0o755)
            shutil.rmtree(folder)


def test_an_unreadable_entry_is_replaced(own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(own_folder / "store")
    store.put(KEY, features())
    store.path(KEY.digest).chmod(0)
    assert store.get(KEY) is None
    assert "Permission denied" in caplog.text
    store.put(KEY, features())
    assert same(store.get(KEY), features())


def test_a_store_that_may_only_be_read(own_folder: Path) -> None:
    store = FeatureStore(own_folder / "store")
    store.put(KEY, features())
    for path in [*store.root.rglob("*"), store.root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    again = FeatureStore(store.root)
    assert same(again.get(KEY), features())
    assert again.get(OTHER) is None
    with pytest.raises(FeatureStoreError, match="cannot be written: Permission denied"):
        again.put(OTHER, features())
    with pytest.raises(FeatureStoreError, match="cannot be used: Permission denied"):
        FeatureStore(store.root / "new")
    store.root.chmod(0)
    with pytest.raises(FeatureStoreError, match="cannot be used: Permission denied"):
        FeatureStore(store.root)


def test_stores_made_at_once_agree_on_the_type(tmp_path: Path) -> None:
    """Threads that wait for each other race harder than processes do."""

    def make(root: Path, dtype: str) -> str | None:
        try:
            store = FeatureStore(root, dtype)  # type: ignore[arg-type]
        except FeatureStoreError as error:
            assert "keeps float" in str(error)
            return None
        store.put(KEY, features())
        return store.dtype

    with ThreadPoolExecutor(8) as pool:
        for k in range(40):
            made = list(pool.map(make, [tmp_path / str(k)] * 8, ["float32", "float16"] * 4))
            found = {dtype for dtype in made if dtype}
            assert found == {FeatureStore(tmp_path / str(k), create=False).dtype}
            assert len([dtype for dtype in made if dtype]) == 4


def test_a_store_that_another_process_makes_meanwhile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir

    def listdir(folder: Path) -> list[str]:
        monkeypatch.setattr(os, "listdir", real)
        FeatureStore(folder).put(KEY, features())
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert same(FeatureStore(tmp_path / "store").get(KEY), features())


WRITER = """
import sys
import numpy as np
from dataclasses import replace
from sfavivit.features.store import FeatureStore
from tests.features.entries import KEY, features
store = FeatureStore(sys.argv[1])
print("ready", flush=True)
for k in range(int(sys.argv[2])):
    store.put(replace(KEY, video_sha256=f"{k % 20:064x}"), features(2000, k % 20))
"""


def writer(store: FeatureStore, rounds: int) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.root, str(rounds)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def read_all(store: FeatureStore) -> int:
    """Number of the writers' entries, all of which must be right."""
    found = 0
    for k in range(20):
        entry = store.get(replace(KEY, video_sha256=f"{k:064x}"))
        if entry:
            assert same(entry, features(2000, k))
            found += 1
    return found


def test_several_processes_write_the_same_keys_while_others_read(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    writers = [writer(store, 60) for _ in range(3)]
    while any(process.poll() is None for process in writers):
        read_all(store)
    assert [process.wait() for process in writers] == [0, 0, 0]
    for process in writers:
        process.communicate()
    assert read_all(store) == 20
    assert not caplog.records


def test_killed_writers_leave_nothing_that_reads_wrong(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        process = writer(store, 10**9)
        before = read_all(store)  # which takes a while, in which it writes
        process.kill()
        process.communicate()
        assert read_all(store) >= before
    assert not caplog.records
    names = {path.name for path in store.root.rglob("*") if path.is_file()}
    assert all(
        name == "store.json" or name.endswith(".safetensors") or TEMPORARY_NAME.fullmatch(name)
        for name in names
    )


def test_a_full_disk_is_one_line_and_leaves_what_was_there(store: FeatureStore) -> None:
    store.put(KEY, features())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal that comes with it
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for key in (KEY, OTHER):
            with pytest.raises(FeatureStoreError, match="cannot be written: File too large"):
                store.put(key, features(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(store.get(KEY), features())
    assert store.get(OTHER) is None
    assert not list(store.root.rglob("*.tmp"))
