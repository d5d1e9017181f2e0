"""Recognising what a file is by its content, so that a refusal can name it and say what to do."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

from sfavivit.models.checkpoints.weights import checkpoint_error, reason


class Container(Enum):
    """A file format that can be read, in the words of a message."""

    SAFETENSORS = "safetensors"
    TORCH = "a torch.save file"
    MSGPACK = "a Flax msgpack file"
    NPZ = "a NumPy archive (.npz)"


_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
_ZIP = b"PK\x03\x04"
_HEAD_BYTES, _TAIL_BYTES = 512, 8
_PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))  # PyTorch before 1.6, and others
_NOT_MSGPACK = (b"\x89HDF", b"\x89PNG")  # whose first byte also begins a map
_SAVE_WEIGHTS = "save its weights with torch.save(model.state_dict(), FILE) or as safetensors"
_CONVERT = "convert its weights to safetensors"
_UNPACK = "unpack it and give the checkpoint inside"
_DOWNLOAD = "download the file itself"


def _starts(*magic: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: head.startswith(magic)


def _text(*starts: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(starts)


def _onnx(head: bytes, tail: bytes) -> bool:
    """Fields of a ModelProto: ir_version (1) from 3, then producer (2), version (5) or graph (7)."""
    return len(head) > 2 and head[0] == 0x08 and 3 <= head[1] <= 31 and head[2] in (0x12, 0x2A, 0x3A)


# Foreign files: test of the first and last bytes, name, advice.
_FILES: tuple[tuple[Callable[[bytes, bytes], bool], str, str], ...] = (
    (_starts(b"version https://git-lfs"), "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (_text(b"<!doctype", b"<html", b"<head", b"<?xml"), "a web page (HTML or XML)", _DOWNLOAD),
    (_text(b"model_checkpoint_path:"), "the index of a TensorFlow checkpoint", _CONVERT),
    (_text(b"{", b"["), "JSON text", "give the weights beside it, or " + _DOWNLOAD),
    (_starts(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes (.h5)", _CONVERT),
    (_starts(b"\x93NUMPY"), "a single NumPy array (.npy)", "give an archive of all weights (.npz)"),
    (_starts(b"\x08\x01\x12"), "a TensorFlow SavedModel (.pb)", _CONVERT),
    (_onnx, "an ONNX model", "give the checkpoint that it was exported from"),
    (lambda head, tail: head[4:8] == b"TFL3", "a TensorFlow Lite model", _CONVERT),
    (lambda head, tail: tail == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a TensorFlow checkpoint", _CONVERT),
    (_starts(b"GGUF"), "a GGUF file", _CONVERT),
    (_starts(b"\x1f\x8b"), "a gzip file", _UNPACK),
    (_starts(b"BZh"), "a bzip2 file", _UNPACK),
    (_starts(b"\xfd7zXZ\0"), "an xz file", _UNPACK),
    (_starts(b"\x28\xb5\x2f\xfd"), "a Zstandard file", _UNPACK),
    (_starts(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", _UNPACK),
    (_starts(b"Rar!"), "a RAR archive", _UNPACK),
    (lambda head, tail: head[257:262] == b"ustar", "a tar archive", _UNPACK),
    (lambda head, tail: head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3", "a video", "give a checkpoint"),
    (_starts(b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "a picture", "give a checkpoint"),
)  # fmt: skip

# Foreign zip archives and folders: a member, as a pattern, tells what they are.
_ARCHIVES = (
    ("*constants.pkl", "a TorchScript archive", _SAVE_WEIGHTS),
    ("model.weights.h5", "a Keras file (.keras)", _CONVERT),
    ("*models/model.json", "a torch.export program (.pt2)", _SAVE_WEIGHTS),
    ("*serialized_exported_program.json", "a torch.export program (.pt2)", _SAVE_WEIGHTS),
)
_FOLDERS = (
    ("saved_model.pb", "a TensorFlow SavedModel", _CONVERT),
    ("*.ckpt*.index", "a TensorFlow checkpoint", _CONVERT),
    ("_CHECKPOINT_METADATA", "an Orbax checkpoint", _CONVERT),
    ("_METADATA", "an Orbax checkpoint", _CONVERT),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint", "run its zero_to_fp32.py and give the result"),
    (
        "*.distcp",
        "a distributed PyTorch checkpoint",
        "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE",
    ),
    ("config.json", "a Hugging Face folder", "give the weights in it, such as model.safetensors"),
)


@dataclass(frozen=True)
class Foreign:
    """A file or folder of a known kind that is no checkpoint, and what to do with it."""

    name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}; {self.advice}"


def identify(path: Path, accepted: Sequence[Container], wanted: str) -> Container:
    """Recognise the format of a regular, readable file: one of ``accepted``.

    Raises:
        CheckpointError: no such file or another format, which the message names; ``wanted`` is the kind of
            checkpoint that was to be read.
    """
    found = recognise(path)
    if isinstance(found, Container) and found in accepted:
        return found
    formats = " or ".join(container.value for container in accepted)
    what = f"{found.value}, which may hold an image model" if isinstance(found, Container) else found
    raise checkpoint_error(path, f"expected {wanted} as {formats}; found {what}")


def recognise(path: Path) -> Container | Foreign | str:
    """Recognise what a file or folder is: a format that can be read, a known foreign one, or words for it.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # checked before open, which blocks on a pipe
            return _folder(path) if path.is_dir() else "a device, pipe or socket"
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read()
    except (OSError, ValueError) as error:
        raise checkpoint_error(path, f"cannot be read: {reason(error)}") from error
    if head.startswith(_ZIP):
        return _archive(path)
    return _container(head) or _foreign(head, tail)


def _container(head: bytes) -> Container | None:
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER_BYTES:
        return Container.SAFETENSORS
    if head.startswith(_PICKLE):
        return Container.TORCH
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)) and not head.startswith(_NOT_MSGPACK):
        return Container.MSGPACK  # a map with at least one entry
    return None


def _foreign(head: bytes, tail: bytes) -> Foreign | str:
    for test, name, advice in _FILES:
        if test(head, tail):
            return Foreign(name, advice)
    return f"the first bytes {head[:9]!r}" if head else "an empty file"


def _archive(path: Path) -> Container | Foreign | str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged directory makes zipfile raise anything
        return Foreign("a damaged or truncated zip archive", "copy or download it again")
    if foreign := _by_members(names, _ARCHIVES):
        return foreign
    if any(fnmatchcase(name, "*data.pkl") for name in names):
        return Container.TORCH
    if names and all(name.endswith(".npy") for name in names):
        return Container.NPZ
    return Foreign(f"a zip archive of {', '.join(names[:3])}", _UNPACK)


def _folder(path: Path) -> Foreign | str:
    return _by_members([entry.name for entry in path.iterdir()], _FOLDERS) or "a directory"


def _by_members(names: Sequence[str], table: Sequence[tuple[str, str, str]]) -> Foreign | None:
    for pattern, name, advice in table:
        if any(fnmatchcase(member, pattern) for member in names):
            return Foreign(name, advice)
    return None
