"""Files and folders that are no checkpoint: the refusal names what each is, in one line of our own."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import initialise_spatial, load_checkpoint
from tests.models.checkpoint_support import small_model

Write = Callable[[Path], object]


def content(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def archive(*names: str) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "x")

    return write


def folder(*names: str) -> Write:
    def write(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_text("{}")

    return write


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("weights.pt"), io.BytesIO())


def onnx_model(path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "graph", [value], [value])
    onnx.save(helper.make_model(graph, producer_name="test"), str(path))


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3, np.float32))


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but such files are still about
        trace: Any = torch.jit.trace  # it has no types
        torch.jit.save(trace(nn.Linear(1, 1), torch.zeros(1)), str(path))


def exported_program(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(nn.Linear(1, 1), (torch.zeros(1),)), file)


FOREIGN: dict[str, tuple[Write, str]] = {
    "lfs": (content(b"version https://git-lfs.github.com/spec/v1\noid"), "Git LFS pointer.*git lfs"),
    "html": (content(b"\n<!DOCTYPE html><html>Sign in"), "web page .*download the file itself"),
    "xml": (content(b"<?xml version='1.0'?><Error><Code>AccessDenied"), "web page"),
    "json": (content(b'{"model_type": "vivit"}'), "JSON text"),
    "h5": (content(b"\x89HDF\r\n\x1a\n" + bytes(50)), r"HDF5 file, as Keras writes \(.h5\); convert"),
    "keras": (archive("metadata.json", "config.json", "model.weights.h5"), r"Keras file \(.keras\)"),
    "npy": (npy, r"single NumPy array \(.npy\)"),
    "onnx": (onnx_model, "an ONNX model"),
    "saved model": (content(b"\x08\x01\x12\x80\x01" + bytes(90)), r"SavedModel \(.pb\)"),
    "tf index": (content(bytes(90) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"), "a TensorFlow checkpoint"),
    "tf state": (content(b'model_checkpoint_path: "model-1"\n'), "index of a TensorFlow checkpoint"),
    "tflite": (content(b"\x1c\0\0\0TFL3" + bytes(9)), "TensorFlow Lite"),
    "torchscript": (torchscript, r"a TorchScript archive; save its weights with torch.save"),
    "pt2": (exported_program, r"a torch.export program \(.pt2\)"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file; unpack it"),
    "tar": (tar, "a tar archive; unpack it"),
    "zip": (archive("a/weights.pt", "b.txt"), "a zip archive of a/weights.pt, b.txt; unpack"),
    "truncated zip": (content(b"PK\x03\x04" + bytes(90)), "damaged or truncated zip archive"),
    "video": (content(b"\0\0\0\x20ftypisom" + bytes(50)), "found a video"),
    "picture": (content(b"\x89PNG\r\n\x1a\n" + bytes(50)), "found a picture"),
    "empty": (content(b""), "found an empty file"),
    "unknown": (content(b"hello, world"), "found the first bytes b'hello"),
    "folder": (folder("a"), "found a directory"),
    "hf folder": (folder("config.json"), "a Hugging Face folder; give the weights"),
    "saved model folder": (folder("saved_model.pb"), "a TensorFlow SavedModel"),
    "orbax": (folder("_METADATA"), "an Orbax checkpoint"),
    "distributed": (folder("__0_0.distcp"), "a distributed PyTorch checkpoint; join it"),
    "deepspeed": (folder("zero_to_fp32.py"), "run its zero_to_fp32.py"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(kind: str, tmp_path: Path) -> None:
    write, message = FOREIGN[kind]
    path = tmp_path / "x"
    write(path)
    refused(path, message)


def refused(path: Path, message: str) -> None:
    for read in (load_checkpoint, lambda file: initialise_spatial(small_model(), file)):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(path)
        assert str(caught.value).isprintable()
        assert "report" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("legacy", [True, False])
def test_whole_pickled_modules(legacy: bool, tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "x", r"a whole pickled model.*torch.save\(model.state_dict\(\), FILE\)")


def test_pickles_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"a": np.zeros(3)}, protocol=4))
    refused(tmp_path / "x", "expected only tensors and plain values")


def test_a_damaged_archive_is_told_in_our_own_words(tmp_path: Path) -> None:
    torch.save({"spatial.encoder.cls": torch.zeros(999)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / "x", "w") as torn:
        torn.writestr("archive/data.pkl", whole.read("whole/data.pkl"))
    refused(tmp_path / "x", "expected a whole torch.save file")


def test_garbage_after_a_safetensors_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[9:14] = b"\xff\xfe{{["
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", "expected a whole safetensors file, found")
