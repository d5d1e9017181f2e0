"""Reading of safetensors and torch.save files, whatever model they hold."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfavivit.models.checkpoints.weights import checkpoint_error, reason


class _Ignored:
    """Stand-in for a value beside the weights that is never used: nothing of it is run or kept."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Options, the best accuracy, a folder, as training scripts keep them.
_IGNORED: list[Any] = [
    (_Ignored, name)
    for name in (
        "argparse.Namespace",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
    )
]


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

    Zip archives are mapped, so that a storage can never be larger than the file. A few kinds of values that
    training scripts keep beside the weights are read as nothing.

    Raises:
        CheckpointError: the file is damaged, compressed (torch never compresses, and a few bytes could unpack
            to terabytes), or a pickle that would run code.
    """
    try:
        if archive := _is_zip(path):
            _check_stored(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_IGNORED):
            warnings.simplefilter("ignore")  # unusual pickles are read or refused all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        # torch's own message advises weights_only=False.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a reference to {foreign[1]}" if foreign else "a pickle of something else"
        raise checkpoint_error(
            path,
            f"expected only tensors and plain values, found {found} (a whole pickled model or object, whose "
            "code is not run); save the weights alone: torch.save(model.state_dict(), FILE)",
        ) from error
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        # torch's own words for a damaged file ask for a report to PyTorch.
        detail = "damaged or truncated content" if isinstance(error, RuntimeError) else reason(error)
        raise checkpoint_error(path, f"expected a whole torch.save file, found: {detail}") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"  # the same test as in torch.load


def _check_stored(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"compressed entry {entry.filename}")
