"""The ONNX graphs of the two halves, built node by node.

Why not the PyTorch exporter: these graphs are the product. Built here they are the same bytes for the same
dimensions, take their weights from a safetensors file under PyTorch's names (one copy serves every engine),
and hold what an exporter cannot know:

- activations are 2-D ``[rows, D]`` between attentions, so a linear layer is one Gemm with its bias, the
  weight as PyTorch stores it;
- q, k and v are three Gemms on thirds of the one fused ``qkv`` weight: no split, no 5-D transpose;
- only the CLS token leaves an encoder, so the last block computes query, projection and MLP for that one
  token (7% of the work at 12 layers, 21% at 4);
- int8 scales each row of activations by itself, or all by a constant, so that a tubelet's feature never
  depends on what else is in its batch. ``DynamicQuantizeLinear`` has one scale for the whole tensor: features
  would change with the chunking, and streams mixed by Triton's batcher would see each other;
- in a turned basis (``sfavivit.models.rotation``) what a norm gives is so even that one constant scale does
  for all rows: nothing to reduce, and scale and bias are applied within the product (size B: 4% faster,
  5% more error; at D = 64 it would be 40% more, so narrow models keep a scale for each row);
- the int8 patch embedding multiplies the pixels' own bytes: its activations are exact;
- int8 is for ONNX Runtime, so it may use ``MatMulIntegerToFloat``, which applies the weights' scales while
  its results are still in registers.

Measured for int8 and left out, since none is faster on a CPU (size B, AVX2): ``MultiHeadAttention`` for the
attention products (the transposes are 1% of the time), ``SkipLayerNormalization`` (9% against 2% for the
additions and the normalisation apart), ``MatMulNBits`` with 8-bit weights and int8 activations, which would
quantise on its way (82 to 103 GOP/s for blocks of 32 to 256, where ``MatMulIntegerToFloat`` has 257). Nor is
a spatial half of our own in C with AVX2, with attention, GELU and quantisation on rows that are still in the
cache, worth its 600 lines: 0.97 to 1.14 times as fast, as ONNX Runtime's products are at the CPU's limit
already. Sums of eight inputs in 16 bits, for which weights need fewer steps, made the products 1.2 times as
fast, the whole 1.02 to 1.2 times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.quantization import (
    ACTIVATION_STEPS,
    ACTIVATION_ZERO,
    BYTE_STEPS,
    QuantizedWeight,
    quantize_weight,
)
from export.resnet_graph import feature_maps
from sfavivit.config import ModelDimensions, TransformerDimensions, exact_div
from sfavivit.models.rotation import ROTATION
from sfavivit.repository.manifest import FEATURES, FRAMES, Precision, logits_tensor

Array = NDArray[Any]
GraphPrecision = Precision | Literal["bf16"]
"""bf16 is for TensorRT: ONNX Runtime has no such kernels on the CPU."""

IR_VERSION = 9
ONNX_RUNTIME_DOMAIN = "com.microsoft"
OPSETS = {"": 20, ONNX_RUNTIME_DOMAIN: 1}  # 20 is the first with Gelu(approximate="tanh")
LAYER_NORM_EPS = 1e-6
GELU_LEAST = -0.1701  # of its tanh form -0.17004, at x = -0.7525
NORMED_LARGEST = 4.5  # of what plain norms give in a turned basis, nearly normal; larger values are cut there
LEAST_EVEN_WIDTH = 256  # from which turned rows are as even as that


class WeightSlice(NamedTuple):
    """An initialiser that is rows ``[first, first + rows)`` of a stored weight."""

    weight: str
    first: int
    rows: int


@dataclass
class GraphBuilder:
    """Collects the nodes of one graph; methods return the name of the value they add."""

    weights: dict[str, Array]
    """The half's parameters under PyTorch's names, float32."""
    precision: GraphPrecision
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Weights of int8 layers that were calibrated; the others are rounded."""
    stored: dict[str, Array] = field(default_factory=dict)
    """What goes to the safetensors file: the weights in the graph's precision."""
    initializers: dict[str, WeightSlice] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def dtype(self) -> type[np.generic]:
        """Of weights and activations."""
        reduced: dict[str, type[np.generic]] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
        return reduced.get(self.precision, np.float32)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def ints(self, *values: int) -> str:
        return self._constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float, dtype: type[np.generic] | None = None) -> str:
        kind = dtype or self.dtype
        return self._constant(f"{kind.__name__}_{value}", np.asarray(value, kind))

    def _constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        return name

    def weight(self, name: str, rows: slice | None = None) -> str:
        """A floating-point parameter (or some of its rows) as an initialiser."""
        self.stored.setdefault(name, self.weights[name].astype(self.dtype))
        return self._initializer(name, rows)

    def _initializer(self, name: str, rows: slice | None) -> str:
        first, stop, _ = (rows or slice(None)).indices(len(self.stored[name]))
        output = name if rows is None else f"{name}.{first}"
        self.initializers[output] = WeightSlice(name, first, stop - first)
        return output

    def linear(self, x: str | Bytes | QuantizedRows, name: str, rows: slice | None = None) -> str:
        """``x @ weight.T + bias`` for x [M, K]; ``rows`` picks output features."""
        bias = self.weight(f"{name}.bias", rows)
        if isinstance(x, str):
            return self.op("Gemm", x, self.weight(f"{name}.weight", rows), bias, transB=1)
        weight, scale = self._quantized_weight(name, rows)
        if isinstance(x, Bytes):
            moved = self.op("Mul", self._sums(weight, scale), self.scalar(x.offset))
            return self._product(x.values, x.factor, weight, scale, 0, self.op("Add", bias, moved))
        if x.shift:
            columns_sum = self.op("Reshape", self._sums(weight, scale), self.ints(1, -1))
            bias = self.op("Gemm", x.shift, columns_sum, bias, alpha=-1.0)
        product = self._product(x.values, 1.0, weight, scale, x.zero)
        return self.op("Add", self.op("Mul", product, x.scale), bias)

    def _product(
        self, values: str, factor: float, weight: str, scale: str, zero: int, bias: str | None = None
    ) -> str:
        """``factor * (values - zero) @ (weight * scale).T + bias`` for uint8 values and an int8 weight."""
        columns = self.op("Transpose", weight, perm=[1, 0])
        inputs = [values, columns, self.scalar(factor), scale, self.scalar(zero, np.uint8)]
        more = ["", bias] if bias else []
        return self.op("MatMulIntegerToFloat", *inputs, *more, domain=ONNX_RUNTIME_DOMAIN)

    def _sums(self, weight: str, scale: str) -> str:
        """What one in every input gives, float32 [N]; constant, so computed at load."""
        sums = self.op("ReduceSum", self.op("Cast", weight, to=TensorProto.FLOAT), self.ints(1), keepdims=0)
        return self.op("Mul", sums, scale)

    def _quantized_weight(self, name: str, rows: slice | None) -> tuple[str, str]:
        """int8 [N, K] and its float32 scales [N]; ``rows`` picks output features."""
        if f"{name}.weight_int8" not in self.stored:
            quantized = self.quantized.get(name) or quantize_weight(self.weights[f"{name}.weight"])
            self.stored[f"{name}.weight_int8"] = quantized.values
            self.stored[f"{name}.weight_scale"] = quantized.scale
        return self._initializer(f"{name}.weight_int8", rows), self._initializer(f"{name}.weight_scale", rows)

    def activations(self, x: str, least: float | None = None) -> str | QuantizedRows:
        """x [M, K] as the linear layers of this precision take it; ``least``: below which no value is."""
        if self.precision != "int8":
            return x
        if least is not None:
            return self._quantized_from(x, least)
        largest, smallest = (self.op(op, x, self.ints(1), keepdims=1) for op in ("ReduceMax", "ReduceMin"))
        floor = self.scalar(float(np.finfo(np.float32).tiny) * ACTIVATION_STEPS)
        magnitude = self.op("Max", largest, self.op("Neg", smallest), floor)
        scale = self.op("Div", magnitude, self.scalar(ACTIVATION_STEPS))
        row_scales = self.op("Reshape", scale, self.ints(-1))
        zeros = self.op("Expand", self.scalar(ACTIVATION_ZERO, np.uint8), self.op("Shape", row_scales))
        values = self.op("QuantizeLinear", x, row_scales, zeros, axis=0)
        return QuantizedRows(values, scale, ACTIVATION_ZERO)

    def _quantized_from(self, x: str, least: float) -> QuantizedRows:
        """All 255 steps for what lies above ``least``: each row has a zero of its own."""
        largest = self.op("Max", self.op("ReduceMax", x, self.ints(1), keepdims=1), self.scalar(0.0))
        scale = self.op("Div", self.op("Add", largest, self.scalar(-least)), self.scalar(BYTE_STEPS))
        zero = self.op("Round", self.op("Div", self.scalar(-least), scale))
        zeros = self.op("Cast", self.op("Reshape", zero, self.ints(-1)), to=TensorProto.UINT8)
        values = self.op("QuantizeLinear", x, self.op("Reshape", scale, self.ints(-1)), zeros, axis=0)
        return QuantizedRows(values, scale, 0, self.op("Mul", zero, scale))

    def normed(self, x: str, name: str) -> str | Bytes | QuantizedRows:
        """x [M, K] after its norm, as ``activations`` gives it; with one scale where rows are even."""
        y = self.layer_norm(x, name)
        if self.precision != "int8" or not self._is_even():
            return self.activations(y)
        step = NORMED_LARGEST / ACTIVATION_STEPS
        values = self.op("QuantizeLinear", y, self.scalar(step), self.scalar(ACTIVATION_ZERO, np.uint8))
        return Bytes(values, step, -step * ACTIVATION_ZERO)

    def _is_even(self) -> bool:
        return ROTATION in self.weights and len(self.weights[ROTATION]) >= LEAST_EVEN_WIDTH

    def layer_norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=LAYER_NORM_EPS)


class Bytes(NamedTuple):
    """``factor * values + offset``: uint8 values [M, K]."""

    values: str
    factor: float
    offset: float


class QuantizedRows(NamedTuple):
    """``(values - zero) * scale - shift``: uint8 values [M, K], float32 scales and, if any, shifts [M, 1]."""

    values: str
    scale: str
    zero: int
    shift: str = ""


def _encoder(g: GraphBuilder, tokens: str, hidden_size: int, dims: TransformerDimensions) -> str:
    """tokens [N, S, D] -> CLS after the final norm [N, D]. The graph of ``model.Encoder``."""
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
    """A parameter [1, 1, D] as [1, length, D], zero but for its first row."""
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
    return g.op("Add", x, g.linear(g.activations(active, GELU_LEAST), f"{name}.mlp.fc2"))


def _cls_rows(g: GraphBuilder, rows: str, length: str, hidden: int) -> str:
    """[N * S, D] -> the first row of every sequence, [N, D]."""
    shape = g.op("Concat", g.ints(-1), length, g.ints(hidden), axis=0)
    first = g.op("Slice", g.op("Reshape", rows, shape), g.ints(0), g.ints(1), g.ints(1))
    return g.op("Reshape", first, g.ints(-1, hidden))


def spatial_graph(
    dims: ModelDimensions,
    weights: dict[str, Array],
    precision: GraphPrecision,
    *,
    quantized: Mapping[str, QuantizedWeight] | None = None,
    cast_first: bool = False,
) -> GraphAndWeights:
    """FRAMES uint8 [B, F, H, W, 3] -> FEATURES float32 [B, F / t, D].

    ``cast_first`` for TensorRT, which takes uint8 as a network input and nowhere else. Elsewhere patches are
    cut while pixels are still bytes: a quarter of the traffic. Weights that are ``rotated`` give the features
    of those that are not. ``quantized``: as ``calibrated`` gives it, for int8.
    """
    g = GraphBuilder(weights, precision, quantized or {})
    frames = g.op("Cast", FRAMES, to=TensorProto.FLOAT) if cast_first else FRAMES
    rows = _embedded(g, frames, dims, cast_first)
    tokens = g.op("Reshape", rows, g.ints(-1, dims.patches, dims.hidden_size))
    cls = _encoder(g, tokens, dims.hidden_size, dims.spatial)
    cls = g.op("Cast", cls, to=TensorProto.FLOAT) if g.dtype is not np.float32 else cls
    batch = g.op("Slice", g.op("Shape", frames), g.ints(0), g.ints(1))
    shape = g.op("Concat", batch, g.ints(-1, dims.hidden_size), axis=0)
    g.nodes.append(helper.make_node("Reshape", [cls, shape], [FEATURES], name=FEATURES))
    takes = [FRAMES, TensorProto.UINT8, ["batch", "frames", dims.image_size, dims.image_size, 3]]
    gives = [FEATURES, TensorProto.FLOAT, ["batch", "tubelets", dims.hidden_size]]
    return _finish(g, "spatial", [takes], [gives])


def _embedded(g: GraphBuilder, frames: str, dims: ModelDimensions, cast_first: bool) -> str:
    """Frames [B, F, H, W, 3] -> embedded patches [B * F / t * patches, D]."""
    if dims.resnet:
        return g.linear(g.activations(_map_patches(g, frames, dims, cast_first)), "patch_embed")
    t, p, side = dims.tubelet_frames, dims.patch_size, dims.image_size // dims.patch_size
    cut = g.op("Reshape", frames, g.ints(-1, t, side, p, side, p, 3))
    cut = g.op("Transpose", cut, perm=[0, 2, 4, 1, 3, 5, 6])
    pixels = g.op("Reshape", cut, g.ints(-1, dims.patch_values))
    if g.precision == "int8":
        return g.linear(Bytes(pixels, 2 / 255, -1.0), "patch_embed")
    return g.linear(_scaled(g, pixels, cast_first), "patch_embed")


def _map_patches(g: GraphBuilder, frames: str, dims: ModelDimensions, cast_first: bool) -> str:
    """Patches of the ResNet's feature maps: [B * F / t * patches, t * C]."""
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
    """Pixels of [0, 255] in [-1, 1], in the precision of the graph."""
    pixels = pixels if is_float else g.op("Cast", pixels, to=TensorProto.FLOAT)
    scaled = g.op("Sub", g.op("Mul", pixels, g.scalar(2 / 255, np.float32)), g.scalar(1.0, np.float32))
    return scaled if g.dtype is np.float32 else g.op("Cast", scaled, to=_onnx_type(g.dtype))


def temporal_graph(dims: ModelDimensions, weights: dict[str, Array]) -> GraphAndWeights:
    """FEATURES float32 [B, T, D], 1 <= T <= T_max -> LOGITS[_output] float32 [B, C].

    Always float32: it is a 64th of the work (one short sequence for a window against 64 tubelets), and its
    weights are what differs between heads, so there is nothing to win from fewer bits.
    """
    g = GraphBuilder(weights, "fp32")
    x = FEATURES
    if dims.adapter:
        rows = g.op("Reshape", x, g.ints(-1, dims.hidden_size))
        wide = g.linear(rows, "adapter.fc1")
        active = (
            g.op("Relu", wide)
            if dims.adapter.activation == "relu"
            else g.op("Gelu", wide, approximate="tanh")
        )
        adapted = g.linear(active, "adapter.fc2")
        if dims.adapter.residual:
            adapted = g.op("Add", rows, adapted)
        x = g.op("Reshape", adapted, g.op("Shape", FEATURES))
    cls = _encoder(g, x, dims.hidden_size, dims.temporal)
    outputs = []
    for name, classes in dims.outputs:
        tensor, key = logits_tensor(name), f"classifiers.{f'logits_{name}' if name else 'logits'}"
        inputs = [cls, g.weight(f"{key}.weight"), g.weight(f"{key}.bias")]
        g.nodes.append(helper.make_node("Gemm", inputs, [tensor], name=tensor, transB=1))
        outputs.append([tensor, TensorProto.FLOAT, ["batch", classes]])
    features = [FEATURES, TensorProto.FLOAT, ["batch", "tubelets", dims.hidden_size]]
    return _finish(g, "temporal", [features], outputs)


class GraphAndWeights(NamedTuple):
    """A graph whose initialisers are still to be bound to the file that holds ``stored``."""

    graph: onnx.GraphProto
    stored: dict[str, Array]
    initializers: dict[str, WeightSlice]

    def bind(self, location: str, offsets: dict[str, int]) -> onnx.ModelProto:
        """The model, its initialisers pointing into file ``location``; ``offsets``: byte of each weight."""
        for name, (weight, first, rows) in self.initializers.items():
            stored = self.stored[weight]
            tensor = self.graph.initializer.add(name=name, dims=[rows, *stored.shape[1:]])
            tensor.data_type = _onnx_type(stored.dtype)
            tensor.data_location = TensorProto.EXTERNAL
            row_bytes = stored.nbytes // len(stored)
            where = {
                "location": location,
                "offset": offsets[weight] + first * row_bytes,
                "length": rows * row_bytes,
            }
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
        domains = {node.domain for node in self.graph.node}
        opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(domains)]
        return helper.make_model(
            self.graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sfavivit"
        )


def _finish(g: GraphBuilder, name: str, inputs: list[list[Any]], outputs: list[list[Any]]) -> GraphAndWeights:
    constants = [onnx.numpy_helper.from_array(value, key) for key, value in g.constants.items()]
    takes, gives = ([helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs))
    graph = helper.make_graph(g.nodes, f"sfavivit_{name}", takes, gives, constants)
    return GraphAndWeights(graph, g.stored, g.initializers)


def _onnx_type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
