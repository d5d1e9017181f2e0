"""The feature store: what goes in comes out, and what is damaged never does."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.durable_file import TEMPORARY_NAME
from sfavivit.errors import FeatureStoreError
from sfavivit.feature_entry import DamagedEntryError, read_entry, read_header
from sfavivit.feature_store import FeatureKey, FeatureStore, StoredFeatures
from sfavivit.video import Crop, Sampling
from tests.users import ordinary_user

KEY = FeatureKey("1" * 64, "2" * 64, Sampling(fps=12.5, shortest_side=16, crop_size=16))
OTHER = replace(KEY, video_sha256="3" * 64)


def features(
    tubelets: int = 5, seed: int = 0, warning: str | None = "broken near second 1 (é)"
) -> StoredFeatures:
    values = np.random.default_rng(seed).normal(size=(tubelets, 8)).astype(np.float32)
    return StoredFeatures(values, np.arange(tubelets) * 0.16, 2 * tubelets - 1, warning)


def same(found: StoredFeatures | None, entry: StoredFeatures) -> bool:
    return (
        found is not None
        and found.features.dtype == np.float32
        and found.features.shape == entry.features.shape
        and found.features.tobytes() == entry.features.tobytes()
        and found.timestamps.tobytes() == entry.timestamps.tobytes()
        and (found.frames_used, found.warning) == (entry.frames_used, entry.warning)
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


@pytest.fixture(scope="module")
def entry_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Name and content of the entry of ``KEY``."""
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    store.put(KEY, features())
    path = store.path(KEY.digest)
    return path.name, path.read_bytes()


@given(
    tubelets=st.integers(1, 40),
    seed=st.integers(0, 9),
    warning=st.none() | st.text(min_size=1),
    start=st.floats(0, 1e6),
    end=st.none() | st.floats(0, 1e6),
    crop=st.builds(Crop, along=st.floats(0, 1), across=st.floats(0, 1), flip=st.booleans()),
)
@settings(deadline=None, max_examples=30)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    tubelets: int,
    seed: int,
    warning: str | None,
    start: float,
    end: float | None,
    crop: Crop,
) -> None:
    store = FeatureStore(tmp_path_factory.getbasetemp() / "round trips")
    key = replace(KEY, video_sha256=f"{seed:064x}", start_seconds=start, end_seconds=end, crop=crop)
    entry = features(tubelets, seed, warning)
    store.put(key, entry)
    assert same(FeatureStore(store.root).get(key), entry)
    header = read_header(store.path(key.digest))
    assert (header.tubelets, header.frames_used, header.key["crop"]["flip"]) == (
        tubelets,
        entry.frames_used,
        crop.flip,
    )


def test_every_part_of_the_key_counts() -> None:
    others = [
        OTHER,
        replace(KEY, spatial_sha256="4" * 64),
        replace(KEY, sampling=replace(KEY.sampling, fps=25.0)),
        replace(KEY, crop=Crop(along=0.0)),
        replace(KEY, crop=Crop(flip=True)),
        replace(KEY, start_seconds=1.0),
        replace(KEY, end_seconds=9.0),
    ]
    assert len({key.digest for key in [KEY, *others]}) == len(others) + 1


def test_other_programs_can_read_an_entry(store: FeatureStore) -> None:
    store.put(KEY, features())
    path = store.path(KEY.digest)
    tensors = safetensors.numpy.load_file(path)
    assert np.array_equal(tensors["features"], features().features)
    assert path.parent.name == KEY.digest[:2]
    assert path.stem == hashlib.sha256(KEY.text.encode()).hexdigest()


def test_float16_takes_half_the_room_and_rounds(tmp_path: Path) -> None:
    entry = features(1000)
    stores = [FeatureStore(tmp_path / dtype, dtype) for dtype in ("float32", "float16")]
    for store in stores:
        store.put(KEY, entry)
    whole, half = (store.path(KEY.digest).stat().st_size for store in stores)
    assert half < 0.7 * whole
    assert same(
        stores[1].get(KEY), replace(entry, features=entry.features.astype(np.float16).astype(np.float32))
    )


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float32", np.inf), ("float16", 70000.0)])
def test_what_cannot_be_kept_is_refused(tmp_path: Path, dtype: str, value: float) -> None:
    store = FeatureStore(tmp_path, dtype)  # type: ignore[arg-type]
    entry = features()
    entry.features[3, 3] = value
    with pytest.raises(FeatureStoreError, match=f"NaN or infinity as {dtype}"):
        store.put(KEY, entry)
    assert not list(tmp_path.glob("*/*"))


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


def outcome(folder: Path, name: str, content: bytes) -> StoredFeatures | None:
    """What reading ``content`` in the place of an entry gives; None: it was found damaged."""
    path = folder / name
    path.write_bytes(content)
    try:
        return read_entry(path)
    except DamagedEntryError:
        return None


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_bit_can_be_flipped_unnoticed(entry_file: tuple[str, bytes], data: st.DataObject) -> None:
    """Bits that mean nothing (the case of an escape's digits) may change: then the entry is the same."""
    name, content = entry_file
    flipped = bytearray(content)
    for position in data.draw(
        st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3, unique=True)
    ):
        flipped[position // 8] ^= 1 << position % 8
    with TemporaryDirectory() as folder:
        found = outcome(Path(folder), name, bytes(flipped))
    assert found is None or same(found, features())


def test_every_bit_of_the_header_and_some_of_the_rest(entry_file: tuple[str, bytes], tmp_path: Path) -> None:
    name, content = entry_file
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    positions = [*range(8 * header_bytes), *range(8 * header_bytes, 8 * len(content), 97)]
    unnoticed = 0
    for position in positions:
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        if found := outcome(tmp_path, name, bytes(flipped)):
            assert same(found, features())
            unnoticed += 1
    assert unnoticed < 5


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_nothing_can_be_cut_off_put_in_or_zeroed(entry_file: tuple[str, bytes], data: st.DataObject) -> None:
    name, content = entry_file
    at = data.draw(st.integers(0, len(content) - 1))
    until = data.draw(st.integers(at + 1, len(content)))
    cut, missing = content[:at], content[:at] + content[until:]
    longer = content + content[at:until]
    zeroed = content[:at] + bytes(until - at) + content[until:]
    damaged = data.draw(st.sampled_from([cut, missing, longer, zeroed]))
    with TemporaryDirectory() as folder:
        found = outcome(Path(folder), name, damaged)
    assert found is None or damaged == content


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_any_bytes_are_found_out(entry_file: tuple[str, bytes], content: bytes) -> None:
    with TemporaryDirectory() as folder:
        assert outcome(Path(folder), entry_file[0], content) is None


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"__metadata__": {"key": KEY.text}},
        {"features": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}},
        {"features": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"features": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 1 << 60]}},
        {"features": {"dtype": "F32", "shape": [1, 1], "data_offsets": "04"}},
        {"features": 3, "__metadata__": 4},
        [],
        "text",
        None,
    ],
    ids=str,
)
def test_safetensors_files_that_are_no_entries(
    entry_file: tuple[str, bytes], tmp_path: Path, header: object
) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(4)
    assert outcome(tmp_path, entry_file[0], content) is None
    with pytest.raises(DamagedEntryError):
        read_header(tmp_path / entry_file[0])


def deep_json(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def sparse(path: Path) -> None:
    """A terabyte that begins like an entry."""
    content = path.read_bytes()
    path.write_bytes(content)
    os.truncate(path, 1 << 40)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets must be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def folder_with_content(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_copy(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy.name)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: os.truncate(path, 8),
    "half a header": lambda path: os.truncate(path, 100),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("a foreign file\n" * 100),
    "deep json": deep_json,
    "sparse": sparse,
    "folder": replaced_by(Path.mkdir),
    "folder with content": replaced_by(folder_with_content),
    "fifo": replaced_by(os.mkfifo),
    "socket": replaced_by(unix_socket),
    "link to nothing": replaced_by(lambda path: path.symlink_to("nothing")),
    "link to /dev/zero": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "link to itself": replaced_by(link_to_itself),
    "link to a copy": link_to_a_copy,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_reported_and_mended(
    store: FeatureStore, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    store.put(KEY, features())
    path = store.path(KEY.digest)
    damage(path)
    with caplog.at_level(logging.WARNING, logger="sfavivit"):
        assert store.get(KEY) is None
    [record] = caplog.records
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()
    store.put(KEY, features())
    assert same(store.get(KEY), features())
    assert len(caplog.records) == 1


def test_a_folder_in_the_place_of_an_entry_keeps_what_is_in_it(store: FeatureStore) -> None:
    folder = store.path(KEY.digest)
    folder.mkdir(parents=True)
    (folder / "precious").touch()
    store.put(KEY, features())
    assert [path.name for path in store.root.rglob("precious")] == ["precious"]


def test_an_entry_of_another_video_is_not_taken(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, features())
    store.put(OTHER, features(seed=1))
    shutil.copy(store.path(OTHER.digest), store.path(KEY.digest))
    assert store.get(KEY) is None
    assert "another key" in caplog.text
    assert same(store.get(OTHER), features(seed=1))


def test_absence_is_no_damage(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.get(KEY) is None
    assert not caplog.records


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: .*restore it"),
        (b"{", "cannot be read: .*restore it"),
        (b"[" * 5000, "cannot be read: .*restore it"),
        (b"\xff\xfe", "cannot be read: .*restore it"),
        (b"[]", "cannot be read: .*restore it"),
        (b"{}", "cannot be read: .*restore it"),
        (b'{"format_version": 2, "dtype": "float32"}', "format 2 .*knows format 1"),
        (b'{"format_version": 1, "dtype": "int8"}', "'int8'"),
        (b'{"format_version": 1, "dtype": ["float32"]}', "float32"),
    ],
)
def test_store_json_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    FeatureStore(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_bytes(content)
    with pytest.raises(FeatureStoreError, match=message) as raised:
        FeatureStore(tmp_path / "store")
    assert "\n" not in str(raised.value)
    assert (tmp_path / "store" / "store.json").read_bytes() == content


def test_places_where_no_store_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    (tmp_path / "odd" / "store.json").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "store.json")
    for place, message in {
        "file": "not a folder",
        "file/below": "not a folder",
        "full": "neither a feature store nor empty",
        "odd": "cannot be used",
        "pipe": "cannot be used: it is not a file",
        "nul\0": "cannot be used: embedded null",
        "n" * 300: "cannot be used: File name too long",
    }.items():
        with pytest.raises(FeatureStoreError, match=message):
            FeatureStore(tmp_path / place)
    with pytest.raises(FeatureStoreError, match=r"not a feature store: it has no store\.json"):
        FeatureStore(tmp_path / "new", create=False)
    assert not (tmp_path / "new").exists()


def test_a_store_keeps_its_type(tmp_path: Path) -> None:
    assert FeatureStore(tmp_path, "float16").dtype == "float16"
    assert FeatureStore(tmp_path).dtype == "float16"
    with pytest.raises(FeatureStoreError, match="keeps float16, not float32"):
        FeatureStore(tmp_path, "float32")


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
from sfavivit.feature_store import FeatureStore
from tests.test_feature_store import KEY, features
store = FeatureStore(sys.argv[1])
print("ready", flush=True)
for k in range(int(sys.argv[2])):
    store.put(replace(KEY, video_sha256=f"{k % 20:064x}"), features(2000, k % 20))
"""


def writer(store: FeatureStore, rounds: int) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.root, str(rounds)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def read_all(store: FeatureStore) -> int:
    """How many of the writers' entries there are; all of them must be right."""
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
