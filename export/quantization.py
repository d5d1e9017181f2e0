"""int8 weights whose products no CPU's kernel can saturate.

CPUs without VNNI multiply uint8 activations with int8 weights by VPMADDUBSW, which adds the products of two
neighbours in saturating 16 bits. With activations up to 255, two neighbouring weights of one sign may
together be at most 128: 255 * 128 = 32640 < 32768. Held to that, a file gives the same integers with VNNI and
without, and the kernel is 1.4 times as fast as the uint8 x uint8 one, which cannot saturate (AVX2: 341
against 238 GOP/s, ``python -m benchmarks limit``).

The bound is on pairs, so it costs little: two large neighbours are rare. Least feature cosine of a random
ViT-B at export 0.9993, where weights of 7 bits, the usual way out, give 0.9982, and unbounded ones 0.9943
where they saturate.

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
PAIR_STEPS = 127.0
"""For two neighbours of one sign, before rounding, which may add one."""


class QuantizedWeight(NamedTuple):
    """``values`` int8 [N, K], ``scale`` float32 [N]: ``values * scale[:, None]`` is the weight."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def quantize_weight(weight: NDArray[np.float32]) -> QuantizedWeight:
    """float32 [N, K]: symmetric, one scale for each output feature."""
    padded = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))
    pairs = padded.reshape(len(weight), -1, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)
    largest = np.maximum(positive, negative).max(axis=1)
    scale = np.maximum(largest / PAIR_STEPS, np.finfo(np.float32).tiny).astype(np.float32)
    return QuantizedWeight(np.rint(weight / scale[:, None]).astype(np.int8), scale)
