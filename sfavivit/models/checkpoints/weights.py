"""Checks of weights that are common to all kinds of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfavivit.config import ModelDimensions
from sfavivit.errors import CheckpointError
from sfavivit.models.vivit import SfaVivit

Shape = tuple[int, ...]

_NAMES_SHOWN = 3
_MAX_MESSAGE = 400


def checkpoint_error(path: Path, what: str) -> CheckpointError:
    """Return an error of one printable line; names in a hostile file may hold line breaks or escapes."""
    what = what if len(what) <= _MAX_MESSAGE else f"{what[:_MAX_MESSAGE]}..."
    line = f"checkpoint {path}: {what}"
    return CheckpointError("".join(c if c.isprintable() else "?" for c in line))


def reason(error: Exception) -> str:
    """Return an error's first line, without the paths and numbers that ``OSError`` adds."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def meta_model(path: Path, dims: ModelDimensions) -> SfaVivit:
    """Build a model on the meta device: shapes without memory for weights.

    Raises:
        CheckpointError: no tensor can have the dimensions.
    """
    try:
        with torch.device("meta"):
            return SfaVivit(dims)
    except (RuntimeError, OverflowError) as error:
        raise checkpoint_error(path, f"its dimensions are beyond any tensor: {dims.to_json()}") from error


def check_shapes(path: Path, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise ``CheckpointError`` for weights of other names or shapes than expected."""
    _check_names(path, set(expected), set(found))
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise checkpoint_error(
                path, f"weight {name}: expected shape {list(shape)}, found {list(found[name])}"
            )


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    problems = [
        f"{what} {_some(names)}"
        for what, names in (("misses", expected - found), ("has unexpected", found - expected))
        if names
    ]
    if problems:
        raise checkpoint_error(path, f"expected {len(expected)} weights; it {' and '.join(problems)}")


def _some(names: set[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(sorted(names)[:_NAMES_SHOWN]) + more


def check_tensors(path: Path, tensors: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the tensors; raise ``CheckpointError`` unless all are dense, floating-point and in the file.

    A pickle can describe a tensor of any size over one stored value (stride 0), which would fill the memory
    when made contiguous.
    """
    checked: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise checkpoint_error(path, f"weight {name}: expected a tensor, found {type(value).__name__}")
        dense = value.layout is torch.strided and value.device.type == "cpu"
        if not dense or not value.is_floating_point():
            raise checkpoint_error(
                path,
                f"weight {name}: expected dense floating-point values, found "
                f"{value.dtype} {value.layout} on {value.device.type}",
            )
        checked[name] = value
    described, present = sum(tensor.nbytes for tensor in checked.values()), path.stat().st_size
    if described > present:
        raise checkpoint_error(path, f"its weights take {described:,} bytes but the file has {present:,}")
    return checked


def to_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a contiguous, finite fp32 copy, which does not depend on the file."""
    copy = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    check_finite(path, name, copy)
    return copy


def check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ``CheckpointError`` for NaN and infinity."""
    # min and max carry NaN through and need no mask as large as the tensor.
    if tensor.numel() and not torch.isfinite(torch.stack(tensor.detach().aminmax())).all():
        raise checkpoint_error(path, f"weight {name} has NaN or infinite values (in fp32)")
