"""int8 weights whose products no CPU's kernel can saturate.

CPUs without VNNI multiply uint8 activations with int8 weights by VPMADDUBSW, which adds the products of two
neighbours in saturating 16 bits. With activations up to 255, two neighbouring weights of one sign may
together be at most 128: 255 * 128 = 32640 < 32768. Held to that, a file gives the same integers with VNNI and
without, and the kernel is 1.4 times as fast as the uint8 x uint8 one, which cannot saturate (AVX2: 341
against 238 GOP/s, ``python -m benchmarks limit``).

The bound is on pairs, so it costs little: two large neighbours are rare. With rounded weights the least
feature cosine of a random ViT-B is 0.9993, where weights of 7 bits, the usual way out, give 0.9982, and
unbounded ones 0.9943 where they saturate.

Rounded one by one, weights make two thirds of the error that is left. Where it is known what a layer's inputs
have to do with one another (``calibration``), the error of each weight is made up for by those to come (GPTQ,
Frantar et al. 2023, arXiv 2210.17323, algorithm 1). A ViT-B then has a quarter to a twelfth of the error on
frames like those of the calibration, six tenths to a quarter on others (``python -m benchmarks outliers``).

Activations are uint8 around 128 with a scale for each row, or a constant one behind a norm of wide models
(``graphs``). Those behind a GELU are never below -0.17: with a zero of their own for each row they have twice
the steps. That takes a quarter off the error (one minus the cosine, of that ViT-B 7.8e-4 -> 6.0e-4) and no
time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ACTIVATION_ZERO = 128
"""Of activations of either sign."""
ACTIVATION_STEPS = 127.0
BYTE_STEPS = 255.0
"""Of activations that have a least value."""
PAIR_LIMIT = 128.0
"""For two neighbours of one sign."""
PAIR_STEPS = PAIR_LIMIT - 1
"""For them before rounding, which may add one."""
LARGEST = 127.0
"""Of a weight."""
BLOCK_INPUTS = 64
"""Whose errors reach the inputs behind them together, as one product."""

Floats = NDArray[np.float32]


class QuantizedWeight(NamedTuple):
    """``values`` int8 [N, K], ``scale`` float32 [N]: ``values * scale[:, None]`` is the weight."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def quantize_weight(weight: Floats, spread: Floats | None = None) -> QuantizedWeight:
    """float32 [N, K]: symmetric, one scale for each output feature.

    ``spread`` [K, K] is ``calibration.spread_of`` the layer's inputs, for which the outputs shall be close;
    without, each weight shall be.
    """
    padded = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))
    pairs = padded.reshape(len(weight), -1, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)
    largest = np.maximum(positive, negative).max(axis=1)
    scale = np.maximum(largest / PAIR_STEPS, np.finfo(np.float32).tiny).astype(np.float32)
    if spread is None:
        return QuantizedWeight(np.rint(weight / scale[:, None]).astype(np.int8), scale)
    return QuantizedWeight(_compensated(weight, scale, spread), scale)


def _compensated(weight: Floats, scale: Floats, spread: Floats) -> NDArray[np.int8]:
    """Input by input: rounded, and the error made up for by the inputs to come.

    GPTQ's algorithm 1, in which a weight is also cut to what its neighbour leaves of the bound on pairs: that
    error is made up for like the others.
    """
    rest = np.array(weight.T, order="C")
    values = np.zeros(rest.shape, np.float32)
    for first in range(0, len(rest), BLOCK_INPUTS):
        inputs, behind = slice(first, first + BLOCK_INPUTS), slice(first + BLOCK_INPUTS, None)
        block, within = rest[inputs], spread[inputs, inputs]
        errors = np.empty_like(block)
        for k in range(len(block)):
            neighbour = values[first + k - 1] if k % 2 else np.float32(0)
            lowest, highest = -PAIR_LIMIT - np.minimum(neighbour, 0), PAIR_LIMIT - np.maximum(neighbour, 0)
            rounded = np.rint(block[k] / scale).clip(lowest, highest).clip(-LARGEST, LARGEST)
            errors[k] = (block[k] - rounded * scale) / within[k, k]
            block[k + 1 :] -= within[k, k + 1 :, None] * errors[k]
            values[first + k] = rounded
        rest[behind] -= spread[inputs, behind].T @ errors
    return np.ascontiguousarray(values.T).astype(np.int8)
