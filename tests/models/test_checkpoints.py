"""Checkpoints of our own: native and torch.save; what is refused, and how."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.models.checkpoints.native import DIMENSIONS_KEY
from sfavivit.models.vivit import SfaVivit
from tests.make_golden import DATA, random_params
from tests.models.checkpoint_support import SAME_FOLDER, peak_bytes, refusal, scenic_file, small_model
from tests.models.reference_vit import assert_same


def save_torch(model: SfaVivit, path: Path, *, archive: bool = True, **replaced: Any) -> None:
    content = {"dimensions": model.dims.to_json(), "state": model.state_dict()} | replaced
    torch.save(content, path, _use_new_zipfile_serialization=archive)


def save_safetensors(
    model: SfaVivit, path: Path, *, state: Any = None, dimensions: str | None = None
) -> None:
    save_file(dict(state or model.state_dict()), path, {DIMENSIONS_KEY: dimensions or model.dims.to_json()})


@pytest.mark.parametrize("adapter", [True, False])
def test_round_trip(adapter: bool, tmp_path: Path) -> None:
    model = small_model(adapter=adapter)
    save_checkpoint(model, tmp_path / "x")
    loaded = load_checkpoint(str(tmp_path / "x"))
    assert loaded.dims == model.dims
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert_same(loaded, model)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path / "a")
    save_checkpoint(load_checkpoint(tmp_path / "a").train(), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path) -> None:
    model = small_model()
    for save in (save_checkpoint, save_torch):
        save(model, tmp_path / "x")
        loaded = load_checkpoint(tmp_path / "x")
        with (tmp_path / "x").open("r+b") as file:
            file.write(b"\xff" * (tmp_path / "x").stat().st_size)
        assert torch.equal(loaded.spatial.patch_embed.weight, model.spatial.patch_embed.weight)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_torch_save(archive: bool, tmp_path: Path) -> None:
    model = small_model()
    save_torch(model, tmp_path / "x", archive=archive)
    assert_same(load_checkpoint(tmp_path / "x"), model)


def test_half_precision_becomes_fp32(tmp_path: Path) -> None:
    model = small_model().bfloat16()
    save_checkpoint(model, tmp_path / "x")
    weight = load_checkpoint(tmp_path / "x").spatial.patch_embed.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.spatial.patch_embed.weight.float())


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    model = small_model()
    save_checkpoint(model, tmp_path / "a.pt")
    save_torch(model, tmp_path / "b.msgpack")
    (tmp_path / "c.safetensors").write_bytes((DATA / "scenic_golden.msgpack").read_bytes())
    assert (
        load_checkpoint(tmp_path / "a.pt").dims == load_checkpoint(tmp_path / "b.msgpack").dims == model.dims
    )
    assert load_checkpoint(tmp_path / "c.safetensors").dims.hidden_size == 32


@pytest.mark.parametrize("save", [save_safetensors, save_torch])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("spatial.encoder.cls"), "misses spatial.encoder.cls"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda s: s.update({"spatial.encoder.cls": torch.zeros(1, 1, 16)}), r"found \[1, 1, 16\]"),
        (lambda s: s.update({"spatial.encoder.cls": torch.full((1, 1, 32), torch.inf)}), "cls has NaN"),
        (lambda s: s.update({"spatial.encoder.cls": torch.full((1, 1, 32), torch.nan)}), "cls has NaN"),
        (lambda s: s.update({"spatial.encoder.cls": torch.zeros(1, 1, 32, dtype=torch.int8)}), "torch.int8"),
        (lambda s: [s.pop(name) for name in list(s)[:9]], "and 6 more"),
    ],
)  # fmt: skip
def test_wrong_weights(
    save: Callable[..., None], change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    model = small_model()
    state = dict(model.state_dict())
    change(state)
    save(model, tmp_path / "x", state=state)
    refusal(tmp_path / "x", message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"hidden_size":32', '"hidden_size":33', "bad dimensions: .*multiple"),
        ('"hidden_size":32', '"hidden_size":"32"', "bad dimensions: hidden_size"),
        ('"hidden_size":32', '"hidden_size":64', r"expected shape"),
        ('"layers":4', '"layers":1000000', "expected weights for 1000001 layers"),
        ('"image_size":16,"patch_size":8', '"image_size":1048576,"patch_size":1048576', "any tensor|shape"),
        ('"image_size":16,"patch_size":8', '"image_size":1048576,"patch_size":1', "any tensor|shape"),
        ("{", "[", "bad dimensions: value"),
        ('"hidden_size":32', '"hidden_size":32,"colour\\n":1', "bad dimensions: colour"),
    ],
)  # fmt: skip
def test_wrong_dimensions(old: str, new: str, message: str, tmp_path: Path) -> None:
    model = small_model()
    text = model.dims.to_json()
    assert old in text
    save_safetensors(model, tmp_path / "x", dimensions=text.replace(old, new))
    refusal(tmp_path / "x", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {}}, "expected this model's weights, .* found state"),
        ([1], "expected named weights, found list"),
        ({"dimensions": 1, "state": dict(small_model().state_dict())}, "as JSON text, found int"),
        ({"dimensions": "{}", "state": {"spatial.encoder.cls": "text"}}, "cls: expected a tensor, found str"),
    ],
)
def test_wrong_torch_content(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x")
    refusal(tmp_path / "x", message)


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "x")
    refusal(tmp_path / "x", "expected this model's weights, .* found weight$")


# --- saving ----------------------------------------------------------------------------------------------


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    save_checkpoint(small_model(), path)
    before = path.read_bytes()
    model = small_model(adapter=False)
    with torch.no_grad():
        model.spatial.encoder.cls[0, 0, 3] = torch.nan
    with pytest.raises(CheckpointError, match="cls has NaN"):
        save_checkpoint(model, path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(small_model(adapter=False), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_checkpoint(small_model(), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_checkpoint(small_model(adapter=False), path)
        assert reader.read() == before
    assert load_checkpoint(path).dims.adapter is None


def test_save_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        save_checkpoint(small_model(), tmp_path / "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_save_to_impossible_places(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "x"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_checkpoint(small_model(), path)


# --- no checkpoint at all, damage, attacks ---------------------------------------------------------------


def test_not_a_checkpoint(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing")
    assert "found a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "a device, pipe or socket" in refusal(tmp_path / "pipe")
    for content, found in ((b"", "an empty file"), (b"hello, world\n", "hello"), (bytes(100), "first bytes")):
        (tmp_path / "x").write_bytes(content)
        assert found in refusal(tmp_path / "x")


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    model = small_model(hidden_size=8)
    save_checkpoint(model, folder / "native")
    save_torch(model, folder / "zip")
    save_torch(model, folder / "legacy", archive=False)
    scenic_file(folder / "scenic", random_params(3, hidden=8))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


KINDS = ["native", "zip", "legacy", "scenic"]


@pytest.mark.parametrize("kind", KINDS)
@settings(SAME_FOLDER, max_examples=30)
@given(data=st.data())
def test_truncated(kind: str, data: st.DataObject, whole_files: dict[str, bytes], tmp_path: Path) -> None:
    whole = whole_files[kind]
    cut = data.draw(st.integers(0, len(whole) - 1))
    (tmp_path / "x").write_bytes(whole[:cut])
    refusal(tmp_path / "x")


@pytest.mark.parametrize("kind", KINDS)
@settings(SAME_FOLDER, max_examples=60)
@given(data=st.data())
def test_damaged(kind: str, data: st.DataObject, whole_files: dict[str, bytes], tmp_path: Path) -> None:
    """Any bytes of the structure overwritten: a model or one clear line, never anything else."""
    content = bytearray(whole_files[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(content)
    try:
        model = load_checkpoint(tmp_path / "x")
    except CheckpointError as error:
        assert str(error).isprintable()
    else:
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


class Malicious:
    """Unpickled by a careless loader, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", 2, 4])
def test_pickles_run_no_code(form: str | int, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "x"
    content = {"dimensions": small_model().dims.to_json(), "state": {"a": Malicious(marker)}}
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(content, protocol=form))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    found = "a pickle of something else" if form == 4 else "a reference to posix.mkdir"
    assert f"only tensors and plain values, found {found}" in refusal(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes()) if isinstance(form, int) else torch.load(path, weights_only=False)
    assert marker.exists()  # the attack is real


def test_one_stored_value_cannot_become_gigabytes(tmp_path: Path) -> None:
    model = small_model()
    dims = model.dims.with_frames(2 << 20)
    state = dict(model.state_dict())
    state["temporal.encoder.pos"] = torch.zeros(1).expand(1, 1 + (1 << 20), 32)
    save_torch(model, tmp_path / "x", dimensions=dims.to_json(), state=state)
    before = peak_bytes()
    assert "its weights take" in refusal(tmp_path / "x")
    assert peak_bytes() - before < 64 << 20


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    save_torch(small_model(), tmp_path / "stored")
    with (
        zipfile.ZipFile(tmp_path / "stored") as stored,
        zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as squeezed,
    ):
        for entry in stored.namelist():
            squeezed.writestr(entry, stored.read(entry))
    assert "compressed entry" in refusal(tmp_path / "x")


def test_storage_larger_than_its_record(tmp_path: Path) -> None:
    """A pickle that claims more values than its archive holds reads nothing beyond the file."""
    model = small_model()
    save_torch(model, tmp_path / "stored")
    with zipfile.ZipFile(tmp_path / "stored") as stored, zipfile.ZipFile(tmp_path / "x", "w") as short:
        for entry in stored.namelist():
            content = stored.read(entry)
            short.writestr(entry, content[:4] if "/data/" in entry else content)
    refusal(tmp_path / "x")


def test_native_file_holds_the_state_dict(tmp_path: Path) -> None:
    """Others can read the weights with safetensors alone."""
    model = small_model()
    save_checkpoint(model, tmp_path / "x")
    expected = model.state_dict()
    assert {k: v.shape for k, v in load_file(tmp_path / "x").items()} == {
        k: v.shape for k, v in expected.items()
    }
