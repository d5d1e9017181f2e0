"""Damaged entries of the feature store: each is found out, reported and replaced."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.features.entry import DamagedEntryError, StoredFeatures, read_entry, read_header
from sfavivit.features.store import FeatureStore
from tests.features.entries import DAMAGES, KEY, OTHER, features, flipped, same


@pytest.fixture(scope="module")
def entry_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Name and content of the entry of ``KEY``."""
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    store.put(KEY, features())
    path = store.path(KEY.digest)
    return path.name, path.read_bytes()


def outcome(folder: Path, name: str, content: bytes) -> StoredFeatures | None:
    """Read ``content`` in the place of an entry; None: it was found damaged."""
    path = folder / name
    path.write_bytes(content)
    try:
        return read_entry(path)
    except DamagedEntryError:
        return None


@given(data=st.data())
@settings(max_examples=300)
def test_no_bit_can_be_flipped_unnoticed(entry_file: tuple[str, bytes], data: st.DataObject) -> None:
    """Bits that mean nothing (the case of an escape's digits) may change: then the entry is the same."""
    name, content = entry_file
    bits = data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3, unique=True))
    with TemporaryDirectory() as folder:
        found = outcome(Path(folder), name, flipped(content, *bits))
    assert found is None or same(found, features())


def test_every_bit_of_the_header_and_some_of_the_rest(entry_file: tuple[str, bytes], tmp_path: Path) -> None:
    name, content = entry_file
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    positions = [*range(8 * header_bytes), *range(8 * header_bytes, 8 * len(content), 97)]
    unnoticed = 0
    for position in positions:
        if found := outcome(tmp_path, name, flipped(content, position)):
            assert same(found, features())
            unnoticed += 1
    assert unnoticed < 5


@given(data=st.data())
@settings(max_examples=150)
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
