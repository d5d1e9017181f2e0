"""The ONNX graphs of the spatial and the temporal half.

They are built node by node, not by PyTorch's exporter: the same dimensions give the same bytes, one
safetensors file under PyTorch's names holds the weights for every engine, q, k and v are thirds of one stored
weight, and the last block computes query, projection and MLP for the CLS token alone. See
``docs/design/int8.md`` for the design of the int8 graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto

from export.graph_builder import (
    Array,
    Bytes,
    GraphAndWeights,
    GraphBuilder,
    GraphPrecision,
    QuantizedRows,
    onnx_type,
)
from export.quantization import QuantizedWeight
from export.resnet_graph import feature_maps
from sfavivit.config import ModelDimensions, TransformerDimensions, exact_div
from sfavivit.models.rotation import ROTATION
from sfavivit.repository.manifest import FEATURES, FRAMES, logits_tensor

GELU_MIN = -0.1701  # of the tanh form: -0.17004, at x = -0.7525


def numpy_state(module: torch.nn.Module) -> dict[str, Array]:
    """Return the parameters of a half of the model under PyTorch's names."""
    return {name: value.numpy() for name, value in module.state_dict().items()}


def spatial_graph(
    dims: ModelDimensions,
    weights: dict[str, Array],
    precision: GraphPrecision,
    *,
    quantized: Mapping[str, QuantizedWeight] | None = None,
    cast_first: bool = False,
) -> GraphAndWeights:
    """Build FRAMES uint8 [B, F, H, W, 3] -> FEATURES float32 [B, F / t, D].

    Weights that are ``rotated`` give the features of those that are not. ``quantized``: int8 weights as
    ``calibrated`` returns them. ``cast_first`` is for TensorRT, which takes uint8 as a network input and
    nowhere else; elsewhere patches are cut while pixels are still bytes, a quarter of the traffic.
    """
    g = GraphBuilder(weights, precision, quantized or {})
    frames = g.op("Cast", FRAMES, to=TensorProto.FLOAT) if cast_first else FRAMES
    rows = _embedded(g, frames, dims, cast_first)
    tokens = g.op("Reshape", rows, g.ints(-1, dims.patches, dims.hidden_size))
    cls = _encoder(g, tokens, dims.hidden_size, dims.spatial)
    cls = g.op("Cast", cls, to=TensorProto.FLOAT) if g.dtype is not np.float32 else cls
    batch = g.op("Slice", g.op("Shape", frames), g.ints(0), g.ints(1))
    shape = g.op("Concat", batch, g.ints(-1, dims.hidden_size), axis=0)
    g.op("Reshape", cls, shape, output=FEATURES)
    inputs = [[FRAMES, TensorProto.UINT8, ["batch", "frames", dims.image_size, dims.image_size, 3]]]
    outputs = [[FEATURES, TensorProto.FLOAT, ["batch", "tubelets", dims.hidden_size]]]
    return g.finish("spatial", inputs, outputs)


def temporal_graph(dims: ModelDimensions, weights: dict[str, Array]) -> GraphAndWeights:
    """Build FEATURES float32 [B, T, D], 1 <= T <= T_max -> LOGITS[_output] float32 [B, C].

    Always float32: the temporal half is a 64th of the work (one short sequence for a window of 64 tubelets).
    """
    g = GraphBuilder(weights, "fp32")
    x = FEATURES
    if dims.adapter:
        rows = g.op("Reshape", x, g.ints(-1, dims.hidden_size))
        wide = g.linear(rows, "adapter.fc1")
        is_relu = dims.adapter.activation == "relu"
        active = g.op("Relu", wide) if is_relu else g.op("Gelu", wide, approximate="tanh")
        adapted = g.linear(active, "adapter.fc2")
        if dims.adapter.residual:
            adapted = g.op("Add", rows, adapted)
        x = g.op("Reshape", adapted, g.op("Shape", FEATURES))
    cls = _encoder(g, x, dims.hidden_size, dims.temporal)
    outputs = []
    for name, classes in dims.outputs:
        tensor, key = logits_tensor(name), f"classifiers.{f'logits_{name}' if name else 'logits'}"
        g.op("Gemm", cls, g.weight(f"{key}.weight"), g.weight(f"{key}.bias"), output=tensor, transB=1)
        outputs.append([tensor, TensorProto.FLOAT, ["batch", classes]])
    inputs = [[FEATURES, TensorProto.FLOAT, ["batch", "tubelets", dims.hidden_size]]]
    return g.finish("temporal", inputs, outputs)


def _embedded(g: GraphBuilder, frames: str, dims: ModelDimensions, cast_first: bool) -> str:
    """Frames [B, F, H, W, 3] -> embedded patches [B * F / t * patches, D]."""
    if dims.resnet:
        return g.linear(g.activations(_map_patches(g, frames, dims, cast_first)), "patch_embed")
    t, p, side = dims.tubelet_frames, dims.patch_size, dims.image_size // dims.patch_size
    cut = g.op("Reshape", frames, g.ints(-1, t, side, p, side, p, 3))
    cut = g.op("Transpose", cut, perm=[0, 2, 4, 1, 3, 5, 6])
    pixels = g.op("Reshape", cut, g.ints(-1, dims.patch_values))
    if g.precision == "int8":
        return g.linear(Bytes(pixels, 2 / 255, -1.0), "patch_embed")  # the pixels' own bytes: exact
    return g.linear(_scaled(g, pixels, cast_first), "patch_embed")


def _map_patches(g: GraphBuilder, frames: str, dims: ModelDimensions, cast_first: bool) -> str:
    """Frames [B, F, H, W, 3] -> patches of the ResNet's feature maps [B * F / t * patches, t * C]."""
    assert dims.resnet
    images = g.op("Reshape", frames, g.ints(-1, dims.image_size, dims.image_size, 3))
    images = _scaled(g, g.op("Transpose", images, perm=[0, 3, 1, 2]), cast_first)
    # Only an fp32 repository can be exported again; a plan's graph is for TensorRT alone.
    keep_weights = g.precision == "fp32" and not cast_first
    maps = feature_maps(g, images, dims.image_size, dims.resnet, keep_weights=keep_weights)
    cut = g.op("Reshape", maps, g.ints(-1, dims.tubelet_frames, dims.resnet.channels, dims.patches))
    cut = g.op("Transpose", cut, perm=[0, 3, 1, 2])
    return g.op("Reshape", cut, g.ints(-1, dims.patch_values))


def _scaled(g: GraphBuilder, pixels: str, is_float: bool) -> str:
    """Pixels of [0, 255] -> [-1, 1], in the precision of the graph."""
    pixels = pixels if is_float else g.op("Cast", pixels, to=TensorProto.FLOAT)
    scaled = g.op("Sub", g.op("Mul", pixels, g.scalar(2 / 255, np.float32)), g.scalar(1.0, np.float32))
    return scaled if g.dtype is np.float32 else g.op("Cast", scaled, to=onnx_type(g.dtype))


def _encoder(g: GraphBuilder, tokens: str, hidden_size: int, dims: TransformerDimensions) -> str:
    """Tokens [N, S, D] -> CLS after the final norm [N, D]. The graph of ``model.Encoder``."""
    # A zero token in front becomes the CLS when the positions, with the CLS added to the first, are added.
    with_cls = g.op("Pad", tokens, g.ints(0, 1, 0, 0, 0, 0))
    shape = g.op("Shape", with_cls)
    length = g.op("Slice", shape, g.ints(1), g.ints(2))
    positions = g.op("Slice", g.weight("encoder.pos"), g.ints(0), length, g.ints(1))
    x = g.op("Add", g.op("Add", with_cls, positions), _first_row(g, "encoder.cls", length))
    x = g.op("Reshape", x, g.ints(-1, hidden_size))
    for layer in range(dims.layers):
        x = _block(g, x, length, hidden_size, dims.heads, f"encoder.blocks.{layer}", layer == dims.layers - 1)
    if ROTATION in g.weights:
        x = g.op("MatMul", x, g.weight(ROTATION))
    return g.layer_norm(x, "encoder.norm")


def _first_row(g: GraphBuilder, name: str, length: str) -> str:
    """Return a parameter [1, 1, D] as [1, length, D], zero but for its first row."""
    zeros = g.op("Sub", length, g.ints(1))
    pads = g.op("Concat", g.ints(0, 0, 0, 0), zeros, g.ints(0), axis=0)
    return g.op("Pad", g.weight(name), pads)


def _block(g: GraphBuilder, x: str, length: str, hidden: int, heads: int, name: str, cls_only: bool) -> str:
    """Rows [N * S, D] -> rows [N * S, D], or, for the last block, the CLS rows [N, D]."""
    keys_from = queries_from = g.normed(x, f"{name}.norm1")
    query_length = length
    if cls_only:
        x, query_length = _cls_rows(g, x, length, hidden), g.ints(1)
        queries_from = g.normed(x, f"{name}.norm1")
    head_size = exact_div(hidden, heads, "hidden size over attention heads")

    def project(source: str | Bytes | QuantizedRows, part: int, rows: str, perm: list[int]) -> str:
        y = g.linear(source, f"{name}.attn.qkv", slice(part * hidden, (part + 1) * hidden))
        shape = g.op("Concat", g.ints(-1), rows, g.ints(heads, head_size), axis=0)
        return g.op("Transpose", g.op("Reshape", y, shape), perm=perm)

    q = g.op("Mul", project(queries_from, 0, query_length, [0, 2, 1, 3]), g.scalar(1 / math.sqrt(head_size)))
    k = project(keys_from, 1, length, [0, 2, 3, 1])
    v = project(keys_from, 2, length, [0, 2, 1, 3])
    attended = g.op("MatMul", g.op("Softmax", g.op("MatMul", q, k), axis=-1), v)
    rows = g.op("Reshape", g.op("Transpose", attended, perm=[0, 2, 1, 3]), g.ints(-1, hidden))
    x = g.op("Add", x, g.linear(g.activations(rows), f"{name}.attn.proj"))
    wide = g.linear(g.normed(x, f"{name}.norm2"), f"{name}.mlp.fc1")
    active = g.op("Gelu", wide, approximate="tanh")
    return g.op("Add", x, g.linear(g.activations(active, GELU_MIN), f"{name}.mlp.fc2"))


def _cls_rows(g: GraphBuilder, rows: str, length: str, hidden: int) -> str:
    """Rows [N * S, D] -> the first row of every sequence [N, D]."""
    shape = g.op("Concat", g.ints(-1), length, g.ints(hidden), axis=0)
    first = g.op("Slice", g.op("Reshape", rows, shape), g.ints(0), g.ints(1), g.ints(1))
    return g.op("Reshape", first, g.ints(-1, hidden))
