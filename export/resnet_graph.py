"""The ONNX nodes of a hybrid's ResNet (``sfavivit.models.resnet``), in the float type of the graph.

Norms are LayerNormalization over groups of channels or over filters: ONNX Runtime spreads it over its
threads, which it does not do with InstanceNormalization, the usual form of a group norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.graph_builder import Array, GraphBuilder
from sfavivit.config import NORM_GROUPS, ResNetDimensions
from sfavivit.models.resnet import (
    GROUP_NORM_EPS,
    POOL_KERNEL,
    STANDARDISATION_EPS,
    STEM_STRIDE,
    same_padding,
    stage_stride,
)


def feature_maps(
    g: GraphBuilder, images: str, side: int, dims: ResNetDimensions, *, keep_weights: bool
) -> str:
    """Add ``resnet.ResNet``: images [N, 3, side, side] in [-1, 1] -> [N, C, side / stride, side / stride].

    The stored convolution weights are standardised. With ``keep_weights`` they are the checkpoint's, bit for
    bit, so that the file can be exported again, and the runtime standardises them when it loads.
    """
    if not keep_weights:
        g.weights = {name: standardised(w) if w.ndim == 4 else w for name, w in g.weights.items()}
    nodes = _Nodes(g, keep_weights)
    side //= STEM_STRIDE
    x = g.op("Relu", nodes.conv_norm(images, side, "resnet.stem.conv", "resnet.stem.norm", STEM_STRIDE))
    side //= STEM_STRIDE
    kernel, strides, pads = [POOL_KERNEL] * 2, [STEM_STRIDE] * 2, _pads(POOL_KERNEL, STEM_STRIDE)
    x = g.op("MaxPool", x, kernel_shape=kernel, strides=strides, pads=pads)
    for stage, blocks in enumerate(dims.blocks):
        side //= stage_stride(stage)
        for block in range(blocks):
            stride = stage_stride(stage) if block == 0 else 1
            x = nodes.bottleneck(x, side, f"resnet.stages.{stage}.blocks.{block}", stride, block == 0)
    return x


def standardised(weight: Array) -> Array:
    """Return filters float32 [O, I, k, k], each with mean 0 and variance 1 (arXiv 1903.10520)."""
    filters = weight.reshape(len(weight), -1).astype(np.float64)
    centred = filters - filters.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + STANDARDISATION_EPS)
    result: Array = (centred / deviation).astype(np.float32).reshape(weight.shape)
    return result


@dataclass(frozen=True)
class _Nodes:
    """Layers of the ResNet; each takes feature maps and returns maps [N, C, side, side]."""

    g: GraphBuilder
    keep_weights: bool

    def bottleneck(self, x: str, side: int, name: str, stride: int, project: bool) -> str:
        shortcut = x
        if project:
            down = f"{name}.downsample"
            shortcut = self.conv_norm(x, side, f"{down}.conv", f"{down}.norm", stride)
        y = self.conv_norm(x, side * stride, f"{name}.conv1", f"{name}.norm1")
        y = self.conv_norm(self.g.op("Relu", y), side, f"{name}.conv2", f"{name}.norm2", stride)
        y = self.conv_norm(self.g.op("Relu", y), side, f"{name}.conv3", f"{name}.norm3")
        return self.g.op("Relu", self.g.op("Add", y, shortcut))

    def conv_norm(self, x: str, side: int, conv: str, norm: str, stride: int = 1) -> str:
        g = self.g
        channels, _, kernel, _ = g.weights[f"{conv}.weight"].shape
        pads = _pads(kernel, stride)
        y = g.op("Conv", x, self._filters(f"{conv}.weight"), strides=[stride] * 2, pads=pads)
        rows = g.op("Reshape", y, g.ints(0, NORM_GROUPS, -1))
        rows = self._normalised(rows, channels // NORM_GROUPS * side**2, GROUP_NORM_EPS)
        y = g.op("Reshape", rows, g.ints(-1, channels, side, side))
        scale, bias = (g.weight(f"{norm}.{part}") for part in ("weight", "bias"))
        scale, bias = (g.op("Reshape", value, g.ints(-1, 1, 1)) for value in (scale, bias))
        return g.op("Add", g.op("Mul", y, scale), bias)

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
        """Normalise each of the rows [..., length] to mean 0 and variance 1."""
        ones = self.g.op("Expand", self.g.scalar(1.0), self.g.ints(length))
        return self.g.op("LayerNormalization", rows, ones, axis=-1, epsilon=epsilon)


def _pads(kernel: int, stride: int) -> list[int]:
    before, after = same_padding(kernel, stride)
    return [before, before, after, after]
