"""int8 weights whose products no CPU's kernel can saturate.

CPUs without VNNI multiply uint8 activations with int8 weights by VPMADDUBSW, which adds the products of two
neighbours in saturating 16 bits: 255 * 128 = 32640 < 32768, so two neighbouring weights of one sign may
together be at most 128. Within that bound the integers are the same with VNNI and without.
``docs/design/int8.md`` has the alternatives and what was measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ACTIVATION_ZERO = 128  # zero point of activations of either sign
ACTIVATION_STEPS = 127.0
BYTE_STEPS = 255.0  # for activations with a known minimum
PAIR_MAX = 128.0  # of two neighbouring weights of one sign, in sum
WEIGHT_MAX = 127.0
BLOCK_INPUTS = 64  # inputs whose errors reach the inputs behind them as one product

Floats = NDArray[np.float32]


class QuantizedWeight(NamedTuple):
    """A weight ``values * scale[:, None]``: ``values`` int8 [N, K], ``scale`` float32 [N]."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def quantize_weight(weight: Floats, factor: Floats | None = None) -> QuantizedWeight:
    """Quantise a weight float32 [N, K] symmetrically, with one scale for each output feature.

    Without ``factor`` each weight is rounded. With it, the upper triangular [K, K] that
    ``calibration.inverse_hessian_factor`` returns for the layer's inputs, the layer's outputs are kept close:
    the error of each weight is compensated by those to come (GPTQ, arXiv 2210.17323, algorithm 1).
    """
    padded = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))
    pairs = padded.reshape(len(weight), -1, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)
    pair_max = np.maximum(positive, negative).max(axis=1)
    # Rounding may add one to a pair.
    scale = np.maximum(pair_max / (PAIR_MAX - 1), np.finfo(np.float32).tiny).astype(np.float32)
    if factor is None:
        return QuantizedWeight(np.rint(weight / scale[:, None]).astype(np.int8), scale)
    return QuantizedWeight(_compensated(weight, scale, factor), scale)


def _compensated(weight: Floats, scale: Floats, factor: Floats) -> NDArray[np.int8]:
    """Round input by input; later inputs compensate each error.

    To GPTQ's algorithm 1 this adds the bound on pairs: a weight is cut to what its neighbour leaves of it,
    and that error is compensated like the others.
    """
    rest = np.array(weight.T, order="C")
    values = np.zeros(rest.shape, np.float32)
    for first in range(0, len(rest), BLOCK_INPUTS):
        inputs, behind = slice(first, first + BLOCK_INPUTS), slice(first + BLOCK_INPUTS, None)
        block, within = rest[inputs], factor[inputs, inputs]
        errors = np.empty_like(block)
        for k in range(len(block)):
            neighbour = values[first + k - 1] if k % 2 else np.float32(0)
            low, high = -PAIR_MAX - np.minimum(neighbour, 0), PAIR_MAX - np.maximum(neighbour, 0)
            rounded = np.rint(block[k] / scale).clip(low, high).clip(-WEIGHT_MAX, WEIGHT_MAX)
            errors[k] = (block[k] - rounded * scale) / within[k, k]
            block[k + 1 :] -= within[k, k + 1 :, None] * errors[k]
            values[first + k] = rounded
        rest[behind] -= factor[inputs, behind].T @ errors
    return np.ascontiguousarray(values.T).astype(np.int8)
