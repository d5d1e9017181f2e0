"""File formats of tensors: recognising and reading them, whatever model they hold."""

from __future__ import annotations

import pickle
import re
import stat
import warnings
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfavivit.models.checkpoints.weights import checkpoint_error, reason


class Container(Enum):
    """A file format, recognised by its first bytes."""

    SAFETENSORS = "safetensors"
    TORCH = "torch.save"
    MSGPACK = "msgpack"


_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
_ZIP = b"PK\x03\x04"


def identify(path: Path) -> Container:
    """Recognise the format of a regular, readable, non-empty file.

    Raises:
        CheckpointError: no such file, or none of the formats.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # checked before open, which blocks on a pipe
            raise checkpoint_error(path, f"expected a file, found {_kind_of(path)}")
        with path.open("rb") as file:
            head = file.read(9)
    except (OSError, ValueError) as error:
        raise checkpoint_error(path, f"cannot be read: {reason(error)}") from error
    if container := _container(head):
        return container
    found = f"the first bytes {head!r}" if head else "an empty file"
    raise checkpoint_error(path, f"expected safetensors, torch.save or Scenic msgpack, found {found}")


def _kind_of(path: Path) -> str:
    return "a directory" if path.is_dir() else "a device, pipe or socket"


def _container(head: bytes) -> Container | None:
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER_BYTES:
        return Container.SAFETENSORS
    if head.startswith((_ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return Container.TORCH  # a zip archive, or the bare pickle of PyTorch before 1.6
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return Container.MSGPACK  # a map with at least one entry
    return None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors (mapped from the file, not read yet) and the metadata of a safetensors file.

    Raises:
        CheckpointError: the file is truncated or malformed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        size = path.stat().st_size
        raise checkpoint_error(
            path, f"expected a whole safetensors file, found {size:,} bytes that are none: {reason(error)}"
        ) from error


def read_torch(path: Path) -> Any:
    """Return the object that ``torch.save`` wrote, of tensors and plain containers only.

    Zip archives are mapped, so that a storage can never be larger than the file.

    Raises:
        CheckpointError: the file is damaged, compressed (torch never compresses, and a few bytes could unpack
            to terabytes), or a pickle that would run code.
    """
    try:
        if archive := _is_zip(path):
            _check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unusual pickles are read or refused all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        # torch's own message advises weights_only=False.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a reference to {foreign[1]}" if foreign else "a pickle of something else"
        raise checkpoint_error(path, f"expected only tensors and plain values, found {found}") from error
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise checkpoint_error(path, f"expected a whole torch.save file, found: {reason(error)}") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ZIP  # the same test as in torch.load


def _check_stored(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"compressed entry {entry.filename}")
