"""Repositories on disk: reading, and the messages of refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfavivit import Repository
from sfavivit.engines import load_engine
from sfavivit.errors import (
    DigestMismatchError,
    EngineError,
    HeadNotFoundError,
    RepositoryError,
    RepositoryVersionError,
)
from sfavivit.repository.manifest import Manifest


def edit(root: Path, change: Callable[[Any], Any]) -> None:
    fields = json.loads((root / "manifest.json").read_text())
    change(fields)
    (root / "manifest.json").write_text(json.dumps(fields))


def test_load_gives_heads_labels_and_files(repository: Path) -> None:
    loaded = Repository.load(str(repository))
    assert list(loaded.manifest.heads) == ["default", "long"]
    assert loaded.labels["default"] == {"": tuple(f"class {i}" for i in range(7))}
    assert {output: len(labels) for output, labels in loaded.labels["long"].items()} == {"verb": 5, "noun": 3}
    assert loaded.spatial_file("model.onnx").is_file()
    assert loaded.temporal_file("long", "model.onnx").is_file()
    with pytest.raises(HeadNotFoundError, match="no head 'short'.*default, long"):
        loaded.temporal_file("short", "model.onnx")
    with pytest.raises(RepositoryError, match=r"names no sfavivit_spatial/1/model\.plan"):
        loaded.spatial_file("model.plan")


def test_the_manifest_names_every_file(repository: Path) -> None:
    on_disk = {f.relative_to(repository).as_posix() for f in repository.rglob("*") if f.is_file()}
    assert on_disk == {"manifest.json", *Repository.load(repository).manifest.files}


def test_manifest_text_round_trips(repository: Path) -> None:
    text = (repository / "manifest.json").read_text()
    assert Manifest.model_validate_json(text).to_json() == text


@pytest.mark.parametrize(("old", "new"), [("loop", "loop"), ("prefix", "none")])
def test_a_manifest_from_before_padding_had_its_name(own_copy: Path, old: str, new: str) -> None:
    def rename(fields: Any) -> None:
        for entry in fields["heads"].values():
            del entry["padding"]
            entry["short_clip"] = old

    edit(own_copy, rename)
    loaded = Repository.load(own_copy).manifest
    assert {entry.padding for entry in loaded.heads.values()} == {new}
    assert "short_clip" not in loaded.to_json()


def test_every_single_file_is_checked(own_copy: Path) -> None:
    for name in Repository.load(own_copy).manifest.files:
        file = own_copy / name
        content = file.read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:] if content else b""
        for damage in {flipped, content + b"x", content[:-1]} - {content}:
            file.write_bytes(damage)
            with pytest.raises(DigestMismatchError, match=str(file)):
                Repository.load(own_copy)
        file.unlink()
        with pytest.raises(DigestMismatchError, match="No such file"):
            Repository.load(own_copy)
        file.write_bytes(content)
    Repository.load(own_copy)


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_format_is_refused_whatever_else_it_holds(own_copy: Path, version: int) -> None:
    edit(own_copy, lambda fields: (fields.clear(), fields.update(format_version=version, brave="new")))
    with pytest.raises(RepositoryVersionError, match=f"format version {version}; this program reads up to 1"):
        Repository.load(own_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("sampling"), "sampling: Field required"),
        (lambda m: m["heads"]["long"].update(short_clip="loop"), "heads.long.short_clip: Extra inputs"),
        (
            lambda m: m["heads"]["long"].update(short_clip=m["heads"]["long"].pop("padding") + "s"),
            "short_clip: Input should be 'loop' or 'none'",
        ),
        (lambda m: m.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda m: m.update(heads={}), "at least one head"),
        (lambda m: m["sampling"].update(fps=-1), "sampling.fps"),
        (lambda m: m["sampling"].update(crop_size=15), "crop 15 is not the image size 16"),
        (lambda m: m["sampling"].update(fps="25"), "sampling.fps: Input should be a valid number"),
        (lambda m: m["heads"]["long"]["dimensions"].update(hidden_size=64), "heads disagree"),
        (lambda m: m["heads"].update({"../up": m["heads"]["long"]}), "head name '../up'"),
        (
            lambda m: m["files"].update({"../../etc/passwd": m["files"]["sfavivit_spatial/1/model.onnx"]}),
            "inside",
        ),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["sfavivit_spatial/1/model.onnx"]}), "inside"),
        (lambda m: m["files"].pop("sfavivit_temporal_long/1/labels_verb.txt"), "names no .*labels_verb.txt"),
        (lambda m: m.update(format_version="1"), "format_version"),
        (lambda m: m.update(history={"default": [m["heads"]["default"]]}), "'default' has a version twice"),
        (lambda m: m.update(history={"other": [m["heads"]["long"]]}), "not there: other"),
    ],
)
def test_a_manifest_that_cannot_be(own_copy: Path, change: Callable[[Any], Any], message: str) -> None:
    edit(own_copy, change)
    with pytest.raises(RepositoryError, match=message) as caught:
        Repository.load(own_copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", "\x00", '"manifest"'])
def test_a_manifest_that_is_none(own_copy: Path, text: str) -> None:
    (own_copy / "manifest.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"manifest\.json"):
        Repository.load(own_copy)


@pytest.mark.parametrize("name", ["", "missing", "file"])
def test_no_repository_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="not a model repository: .*python -m export CHECKPOINT"):
        Repository.load(tmp_path / name)


def test_an_engine_file_that_does_not_load(own_copy: Path) -> None:
    """A digest says that a file is the one exported, not that this ONNX Runtime can read it."""
    loaded = Repository.load(own_copy)
    loaded.spatial_file("model.onnx").write_bytes(b"not a graph")
    loaded.spatial_file("model.safetensors").write_bytes(b"not weights")
    for engine in ("onnxruntime", "torch"):
        with pytest.raises(EngineError, match="sfavivit_spatial"):
            load_engine(engine, loaded)
