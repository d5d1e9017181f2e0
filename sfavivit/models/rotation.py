"""The spatial half in a basis without outlier channels, in which int8 loses less.

A few channels of a trained transformer's residual stream are often ten times as large as the others, and
LayerNorm scales some more. One scale for a row then leaves few of the 255 steps for the rest. Turned by an
orthogonal matrix, every channel holds a little of each, and the model computes the same (QuaRot, Ashkboos
et al. 2024, arXiv 2404.00456; SliceGPT, arXiv 2401.15024, for the norms). It needs to know nothing of the
activations, and costs one small product for the CLS rows.

Those works turn with Hadamard matrices, which few widths have, and replace LayerNorm by RMSNorm, since
turning moves the mean. The matrix here keeps the direction of (1, ..., 1), so that mean and variance, and
with them LayerNorm, stay what they are; it mixes the others evenly, for any width.

With calibrated weights (``export.calibration``) a ViT-B with outlier channels is off by two fifths to a
seventeenth of what it would be as trained, one without any by 1.1 to 1.8 times as much: which is less than
either was without calibration (``python -m benchmarks outliers``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROTATION = "encoder.rotation"
"""float32 [D, D] among a half's weights: they are turned by it. ``x @ ROTATION.T`` turns a row."""
READERS = {"norm1": "attn.qkv", "norm2": "mlp.fc1"}
"""Which linear layer takes what each norm of a block gives."""
WRITERS = ("patch_embed", "attn.proj", "mlp.fc2")
"""What adds to the residual stream, with the rows "encoder.pos" and "encoder.cls"."""


def rotation(size: int) -> NDArray[np.float64]:
    """Orthogonal [size, size] that keeps (1, ..., 1); no entry is above ``2 / sqrt(size)``.

    With C the DCT-II, whose first row is that direction: C.T @ diag(1, inverse DCT-II) @ C.
    """
    basis, inner = _dct(size), np.eye(size)
    inner[1:, 1:] = _dct(size - 1).T
    turned: NDArray[np.float64] = basis.T @ inner @ basis
    return turned


def _dct(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II, frequencies in rows."""
    frequency, place = np.ogrid[:size, :size]
    waves: NDArray[np.float64] = np.sqrt(2 / size) * np.cos(np.pi / size * (place + 0.5) * frequency)
    waves[0] = np.sqrt(1 / size)
    return waves


def rotated(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """A spatial half's weights in the turned basis, with ``ROTATION``.

    The blocks' norms become plain: their scale and shift go to the layer that reads them. The last norm
    stays, and what reaches it is to be turned back.
    """
    turn = rotation(len(weights["encoder.norm.weight"])).astype(np.float32)
    turned = _turned(weights, turn)
    for norm, reader in _readers(weights):
        scale, shift, weight = weights[f"{norm}.weight"], weights[f"{norm}.bias"], weights[f"{reader}.weight"]
        turned[f"{reader}.weight"] = (weight * scale) @ turn.T
        turned[f"{reader}.bias"] = weights[f"{reader}.bias"] + weight @ shift
        turned[f"{norm}.weight"], turned[f"{norm}.bias"] = np.ones_like(scale), np.zeros_like(shift)
    return turned | {ROTATION: turn}


def unrotated(stored: Mapping[str, Floats]) -> dict[str, Floats]:
    """The same function without ``ROTATION``; weights that have none as they are."""
    weights = dict(stored)
    if (turn := weights.pop(ROTATION, None)) is None:
        return weights
    back = _turned(weights, turn.T)
    for _, reader in _readers(weights):
        back[f"{reader}.weight"] = weights[f"{reader}.weight"] @ turn
    return back


def _turned(weights: Mapping[str, Floats], turn: Floats) -> dict[str, Floats]:
    """``weights``, what they add to the residual stream turned."""
    turned = dict(weights)
    for name in weights:
        layer = name.removesuffix(".weight")
        if name != layer and layer.endswith(WRITERS):
            turned[name], bias = turn @ weights[name], f"{layer}.bias"
            turned[bias] = turn @ weights[bias]
    for name in ("encoder.pos", "encoder.cls"):
        turned[name] = weights[name] @ turn.T
    return turned


def _readers(weights: Mapping[str, Floats]) -> Iterator[tuple[str, str]]:
    """Names of each block norm and of the layer that reads it."""
    for name in weights:
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        if name.endswith(".weight") and block.startswith("encoder.blocks.") and norm in READERS:
            yield f"{block}.{norm}", f"{block}.{READERS[norm]}"
