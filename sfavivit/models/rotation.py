"""Rotation of the spatial half into a basis without outlier channels, in which int8 loses less.

A few channels of a trained transformer's residual stream are often ten times as large as the others, and
LayerNorm scales some more. One scale per row then leaves few of the 255 steps for the rest. After rotation by
an orthogonal matrix every channel holds a little of each, and the model computes the same function (QuaRot,
Ashkboos et al. 2024, arXiv 2404.00456; SliceGPT, arXiv 2401.15024, for the norms). The activations need not
be known, and the cost is one small product for the CLS rows. docs/design/int8.md has measurements.

Those works rotate by Hadamard matrices, which exist for few widths, and replace LayerNorm by RMSNorm, because
their rotation moves the mean. The matrix here keeps the direction of (1, ..., 1), so that mean and variance,
and with them LayerNorm, stay the same; it mixes the other directions evenly, for any width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROTATION = "encoder.rotation"
"""Name of the matrix R, float32 [D, D], among the weights of a rotated half; a row x becomes ``x @ R.T``."""
READERS = {"norm1": "attn.qkv", "norm2": "mlp.fc1"}
"""Norm of a block -> the linear layer that reads its output."""
WRITERS = ("patch_embed", "attn.proj", "mlp.fc2")
"""Linear layers that add to the residual stream, as do the rows "encoder.pos" and "encoder.cls"."""


def rotation(size: int) -> NDArray[np.float64]:
    """Return an orthogonal matrix [size, size] that keeps (1, ..., 1); no entry exceeds ``2 / sqrt(size)``.

    With C the DCT-II, whose first row is that direction, it is C.T @ diag(1, inverse DCT-II) @ C.
    """
    basis, inner = _dct(size), np.eye(size)
    inner[1:, 1:] = _dct(size - 1).T
    matrix: NDArray[np.float64] = basis.T @ inner @ basis
    return matrix


def _dct(size: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II, one frequency per row."""
    frequency, place = np.ogrid[:size, :size]
    waves: NDArray[np.float64] = np.sqrt(2 / size) * np.cos(np.pi / size * (place + 0.5) * frequency)
    waves[0] = np.sqrt(1 / size)
    return waves


def rotated(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Rotate a spatial half's weights, and add the matrix under the name ``ROTATION``.

    The norms of the blocks become plain: their scale and shift move to the layer that reads them. The last
    norm stays, and its input has to be rotated back.
    """
    matrix = rotation(len(weights["encoder.norm.weight"])).astype(np.float32)
    result = _rotate_writers(weights, matrix)
    for norm, reader in _readers(weights):
        scale, shift, weight = weights[f"{norm}.weight"], weights[f"{norm}.bias"], weights[f"{reader}.weight"]
        result[f"{reader}.weight"] = np.matmul(weight * scale, matrix.T)
        result[f"{reader}.bias"] = weights[f"{reader}.bias"] + weight @ shift
        result[f"{norm}.weight"] = np.ones(scale.shape, np.float32)
        result[f"{norm}.bias"] = np.zeros(shift.shape, np.float32)
    return result | {ROTATION: matrix}


def unrotated(stored: Mapping[str, Floats]) -> dict[str, Floats]:
    """Rotate weights back and drop ``ROTATION``; weights without it stay as they are."""
    weights = dict(stored)
    if (matrix := weights.pop(ROTATION, None)) is None:
        return weights
    result = _rotate_writers(weights, matrix.T)
    for _, reader in _readers(weights):
        result[f"{reader}.weight"] = weights[f"{reader}.weight"] @ matrix
    return result


def _rotate_writers(weights: Mapping[str, Floats], matrix: Floats) -> dict[str, Floats]:
    """Rotate the output of every weight that adds to the residual stream."""
    result = dict(weights)
    for name in weights:
        layer = name.removesuffix(".weight")
        if name != layer and layer.endswith(WRITERS):
            result[name] = matrix @ weights[name]
            result[f"{layer}.bias"] = matrix @ weights[f"{layer}.bias"]
    for name in ("encoder.pos", "encoder.cls"):
        result[name] = weights[name] @ matrix.T
    return result


def _readers(weights: Mapping[str, Floats]) -> Iterator[tuple[str, str]]:
    """Yield the names of each block norm and of the layer that reads it."""
    for name in weights:
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        if name.endswith(".weight") and block.startswith("encoder.blocks.") and norm in READERS:
            yield f"{block}.{norm}", f"{block}.{READERS[norm]}"
