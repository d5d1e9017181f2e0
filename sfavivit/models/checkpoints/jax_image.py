"""Image ViTs in JAX's own files: vision_transformer and big_vision (.npz), and Scenic (msgpack).

They are one function under several names. Positions are in one of three places, with a row for the class
token (added after it is prepended) or without (added before); blocks are numbered modules, or one module
whose arrays have a leading axis of layers (``nn.scan``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sfavivit.models.checkpoints.flax import FlaxFormatError, read_flax
from sfavivit.models.checkpoints.npz import DAMAGE, NpzFormatError, read_npz
from sfavivit.models.checkpoints.scenic import flatten, parameters
from sfavivit.models.checkpoints.weights import checkpoint_error, reason

READ_ERRORS = (FlaxFormatError, NpzFormatError, *DAMAGE)

POSITIONS = "Transformer/posembed_input/pos_embedding"
_OTHER_POSITIONS = ("Transformer/pos_embedding", "pos_embedding")
_KERNEL = "embedding/kernel"
_IGNORED = ("head/", "pre_logits/", "output_projection/")
# Modules are numbered by kind in Flax Linen, and by call in the first files of vision_transformer.
_RENAMED = (
    ("/LayerNorm_2/", "/LayerNorm_1/"),
    ("/MlpBlock_3/", "/MlpBlock_0/"),
    ("/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
)
_SCANNED = re.compile(r"Transformer/encoderblock/(.+)")
_MAX_LAYERS = 1024


class StoredArray(Protocol):
    """An array in a file, whose shape is known before its values are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def to_float32(self) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class _Stack:
    """An array of all layers of a scanned encoder, read once."""

    array: StoredArray

    @cached_property
    def values(self) -> npt.NDArray[np.float32]:
        return self.array.to_float32()


@dataclass(frozen=True)
class _Layer:
    """One layer's part of a ``_Stack``."""

    stack: _Stack
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stack.array.shape[1:]

    def to_float32(self) -> npt.NDArray[np.float32]:
        out: npt.NDArray[np.float32] = self.stack.values[self.index]
        return out


def read_npz_image(path: Path) -> dict[str, StoredArray]:
    """Return the weights of an image ViT in an archive, under Scenic's names.

    Raises:
        CheckpointError: no single image ViT with a class token, or a damaged archive.
    """
    try:
        return _canonical(path, _below_prefix(path, read_npz(path)))
    except READ_ERRORS as error:
        raise checkpoint_error(
            path, f"expected a NumPy archive of weights, found: {reason(error)}"
        ) from error


def read_msgpack_image(path: Path) -> dict[str, StoredArray]:
    """Return the weights of an image ViT in a Scenic or Flax train state, under Scenic's names.

    Raises:
        CheckpointError: no image ViT with a class token, or a damaged file.
    """
    try:
        return _canonical(path, flatten(path, parameters(path, read_flax(path))))
    except READ_ERRORS as error:
        raise checkpoint_error(path, f"expected a train state in msgpack, found: {reason(error)}") from error


def _below_prefix(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """Take the weights from an archive that may hold a train state: not the optimizer's moments."""
    prefixes = {
        name.removesuffix(_KERNEL) for name in arrays if name == _KERNEL or name.endswith(f"/{_KERNEL}")
    }
    weights = {p for p in prefixes if not p.startswith(("opt/", "optimizer/")) or "/target/" in f"/{p}"}
    if len(weights) != 1:
        found = ", ".join(sorted(weights)) or ", ".join(sorted(arrays)[:3])
        raise checkpoint_error(path, f"expected one image ViT ({_KERNEL} once), found {found or 'no arrays'}")
    prefix = weights.pop()
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _canonical(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    _refuse_variants(path, arrays)
    out: dict[str, StoredArray] = {}
    for name, array in arrays.items():
        if name.startswith(_IGNORED):
            continue
        for key, value in _unscanned(path, _scenic_name(name), array).items():
            if key in out:
                raise checkpoint_error(path, f"holds the weight {key} twice, under different names")
            out[key] = value
    return out


def _scenic_name(name: str) -> str:
    if name in _OTHER_POSITIONS:
        return POSITIONS
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


def _unscanned(path: Path, name: str, array: StoredArray) -> dict[str, StoredArray]:
    """Split an array of all layers into one for each."""
    if not (scanned := _SCANNED.fullmatch(name)):
        return {name: array}
    if not array.shape or array.shape[0] > _MAX_LAYERS:
        raise checkpoint_error(path, f"weight {name}: expected a leading axis of layers, found {array.shape}")
    stack = _Stack(array)
    return {f"Transformer/encoderblock_{i}/{scanned[1]}": _Layer(stack, i) for i in range(array.shape[0])}


def _refuse_variants(path: Path, arrays: Mapping[str, StoredArray]) -> None:
    parts = {name.split("/")[0] for name in arrays}
    kernel: Any = arrays.get(_KERNEL)
    video = any("SpatialTransformer" in part or "TemporalTransformer" in part for part in parts)
    variants = {
        "is a ViViT, a video model": video or (kernel is not None and len(kernel.shape) == 5),
        "is a hybrid with a ResNet, which is taken in timm naming only": "conv_root" in parts,
        "is no ViT (no Transformer)": "Transformer" not in parts,
        "pools its tokens by attention and has no class token (cls)": "MAPHead_0" in parts
        or "probe" in parts,
        "pools its tokens and has no class token (cls)": "cls" not in parts,
    }
    for variant, holds in variants.items():
        if holds:
            raise checkpoint_error(path, f"expected an image ViT with a class token; this model {variant}")
