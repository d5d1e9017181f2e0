"""The feature store: what goes in comes out, under its own key, and only a store is taken for one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.config import Crop
from sfavivit.errors import FeatureStoreError
from sfavivit.features.entry import read_header
from sfavivit.features.store import FeatureStore
from tests.features.entries import KEY, OTHER, features, same


@given(
    tubelets=st.integers(1, 40),
    seed=st.integers(0, 9),
    warning=st.none() | st.text(min_size=1),
    start=st.floats(0, 1e6),
    end=st.none() | st.floats(0, 1e6),
    crop=st.builds(Crop, along=st.floats(0, 1), across=st.floats(0, 1), flip=st.booleans()),
)
@settings(max_examples=30)
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
    for one in stores:
        one.put(KEY, entry)
    whole, half = (one.path(KEY.digest).stat().st_size for one in stores)
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
