"""The ONNX nodes of a hybrid's ResNet (``sfavivit.models.resnet``), in the float type of the graph.

Both of its norms are layer norms: a weight is standardised over each filter, activations over each group of
channels. ONNX Runtime spreads LayerNormalization over its threads, but not InstanceNormalization, the usual
form of a group norm; on one core both take the same time.

int8 leaves the ResNet in float32: it is 7% of the weights of R50+ViT-L, and ONNX Runtime's convolutions of
integers know no scale for each frame of a batch, without which a feature would depend on its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfavivit.config import NORM_GROUPS, ResNetDimensions
from sfavivit.models.resnet import (
    GROUP_NORM_EPS,
    POOL_KERNEL,
    STANDARDISATION_EPS,
    STEM_STRIDE,
    same_padding,
    stage_stride,
)

if TYPE_CHECKING:
    from export.graphs import Array, GraphBuilder


def feature_maps(
    g: GraphBuilder, images: str, side: int, dims: ResNetDimensions, *, keep_weights: bool
) -> str:
    """Images [N, 3, side, side] in [-1, 1] -> [N, C, side / stride, side / stride]: ``resnet.ResNet``.

    The stored convolution weights are standardised, or, with ``keep_weights``, the model's own: the runtime
    then standardises them when it loads, and who reads the file has the checkpoint, bit for bit.
    """
    if not keep_weights:
        g.weights = {name: standardised(w) if w.ndim == 4 else w for name, w in g.weights.items()}
    nodes = _Nodes(g, keep_weights)
    x, side = nodes.conv_norm(images, side, "resnet.stem.conv", "resnet.stem.norm", STEM_STRIDE)
    x, side = nodes.max_pool(g.op("Relu", x), side)
    for stage, blocks in enumerate(dims.blocks):
        for block in range(blocks):
            stride = stage_stride(stage) if block == 0 else 1
            x, side = nodes.bottleneck(x, side, f"resnet.stages.{stage}.blocks.{block}", stride, block == 0)
    return x


def standardised(weight: Array) -> Array:
    """Filters float32 [O, I, k, k], each with mean 0 and variance 1 (arXiv 1903.10520).

    Done again, as by PyTorch on the stored weights, it changes nothing but for the epsilon.
    """
    filters = weight.reshape(len(weight), -1).astype(np.float64)
    centred = filters - filters.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + STANDARDISATION_EPS)
    result: Array = (centred / deviation).astype(np.float32).reshape(weight.shape)
    return result


@dataclass(frozen=True)
class _Nodes:
    """Each method takes maps [N, C, side, side] and returns maps and their side."""

    g: GraphBuilder
    keep_weights: bool

    def max_pool(self, x: str, side: int) -> tuple[str, int]:
        kernel, strides = [POOL_KERNEL] * 2, [STEM_STRIDE] * 2
        pads = _pads(POOL_KERNEL, STEM_STRIDE)
        return self.g.op("MaxPool", x, kernel_shape=kernel, strides=strides, pads=pads), side // STEM_STRIDE

    def bottleneck(self, x: str, side: int, name: str, stride: int, reshape: bool) -> tuple[str, int]:
        shortcut = x
        if reshape:
            down = f"{name}.downsample"
            shortcut, _ = self.conv_norm(x, side, f"{down}.conv", f"{down}.norm", stride)
        y, side = self.conv_norm(x, side, f"{name}.conv1", f"{name}.norm1")
        y, side = self.conv_norm(self.g.op("Relu", y), side, f"{name}.conv2", f"{name}.norm2", stride)
        y, side = self.conv_norm(self.g.op("Relu", y), side, f"{name}.conv3", f"{name}.norm3")
        return self.g.op("Relu", self.g.op("Add", y, shortcut)), side

    def conv_norm(self, x: str, side: int, conv: str, norm: str, stride: int = 1) -> tuple[str, int]:
        g, side = self.g, side // stride
        channels, _, kernel, _ = g.weights[f"{conv}.weight"].shape
        pads = _pads(kernel, stride)
        y = g.op("Conv", x, self._filters(f"{conv}.weight"), strides=[stride] * 2, pads=pads)
        rows = g.op("Reshape", y, g.ints(0, NORM_GROUPS, -1))
        rows = self._normalised(rows, channels // NORM_GROUPS * side**2, GROUP_NORM_EPS)
        y = g.op("Reshape", rows, g.ints(-1, channels, side, side))
        scale, bias = (g.weight(f"{norm}.{part}") for part in ("weight", "bias"))
        scale, bias = (g.op("Reshape", value, g.ints(-1, 1, 1)) for value in (scale, bias))
        return g.op("Add", g.op("Mul", y, scale), bias), side

    def _filters(self, name: str) -> str:
        g, weight = self.g, self.g.weight(name)
        if not self.keep_weights:
            return weight
        shape = g.weights[name].shape
        rows = g.op("Reshape", weight, g.ints(shape[0], -1))
        return g.op(
            "Reshape", self._normalised(rows, math.prod(shape[1:]), STANDARDISATION_EPS), g.ints(*shape)
        )

    def _normalised(self, rows: str, length: int, epsilon: float) -> str:
        """Rows [..., length], each with mean 0 and variance 1."""
        ones = self.g.op("Expand", self.g.scalar(1.0), self.g.ints(length))
        return self.g.op("LayerNormalization", rows, ones, axis=-1, epsilon=epsilon)


def _pads(kernel: int, stride: int) -> list[int]:
    before, after = same_padding(kernel, stride)
    return [before, before, after, after]
