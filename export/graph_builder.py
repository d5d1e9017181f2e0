"""Build ONNX graphs node by node, with linear layers and activations in the precision of the graph.

Why these operators, and what was measured and left out: ``docs/design/int8.md``.
"""

from __future__ import annotations

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
from sfavivit.models.rotation import ROTATION
from sfavivit.repository.manifest import Precision

Array = NDArray[Any]
GraphPrecision = Precision | Literal["bf16"]
"""bf16 is for TensorRT: ONNX Runtime has no such kernels on the CPU."""

IR_VERSION = 9
ONNX_RUNTIME_DOMAIN = "com.microsoft"
OPSETS = {"": 20, ONNX_RUNTIME_DOMAIN: 1}  # 20 is the first with Gelu(approximate="tanh")
LAYER_NORM_EPS = 1e-6
NORMED_MAX = 4.5  # larger outputs of a norm are cut; in a rotated basis they are nearly normal
MIN_EVEN_WIDTH = 256  # hidden size from which rotated rows are even enough for one constant scale


class WeightSlice(NamedTuple):
    """An initialiser that is rows ``[first, first + rows)`` of a stored weight."""

    weight: str
    first: int
    rows: int


class Bytes(NamedTuple):
    """Activations ``factor * values + offset``, with uint8 values [M, K]."""

    values: str
    factor: float
    offset: float


class QuantizedRows(NamedTuple):
    """Activations ``(values - zero) * scale - shift``: uint8 values [M, K], float32 scale, shift [M, 1]."""

    values: str
    scale: str
    zero: int
    shift: str = ""


class GraphAndWeights(NamedTuple):
    """A graph whose initialisers are still to be bound to the file that holds ``stored``."""

    graph: onnx.GraphProto
    stored: dict[str, Array]
    initializers: dict[str, WeightSlice]

    def bind(self, location: str, offsets: dict[str, int]) -> onnx.ModelProto:
        """Return the model with its weights in file ``location``; ``offsets``: first byte of each weight."""
        for name, (weight, first, rows) in self.initializers.items():
            stored = self.stored[weight]
            tensor = self.graph.initializer.add(name=name, dims=[rows, *stored.shape[1:]])
            tensor.data_type = onnx_type(stored.dtype)
            tensor.data_location = TensorProto.EXTERNAL
            row_bytes = stored.nbytes // len(stored)
            offset, length = offsets[weight] + first * row_bytes, rows * row_bytes
            for key, value in (("location", location), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        domains = {node.domain for node in self.graph.node}
        opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(domains)]
        return helper.make_model(
            self.graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sfavivit"
        )


@dataclass
class GraphBuilder:
    """Collects the nodes of one graph; methods return the name of the value they add."""

    weights: dict[str, Array]
    """Parameters under PyTorch's names, float32."""
    precision: GraphPrecision
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Calibrated int8 weights by layer; the weights of other layers are rounded."""
    stored: dict[str, Array] = field(default_factory=dict)
    """Content of the safetensors file: the weights in the graph's precision."""
    initializers: dict[str, WeightSlice] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def dtype(self) -> type[np.generic]:
        """Type of floating-point weights and activations."""
        reduced: dict[str, type[np.generic]] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
        return reduced.get(self.precision, np.float32)

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output, which has the node's name."""
        name = output or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def ints(self, *values: int) -> str:
        return self._constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float, dtype: type[np.generic] | None = None) -> str:
        kind = dtype or self.dtype
        return self._constant(f"{kind.__name__}_{value}", np.asarray(value, kind))

    def _constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        return name

    def weight(self, name: str, rows: slice | None = None) -> str:
        """Add a floating-point parameter (or some of its rows) as an initialiser."""
        self.stored.setdefault(name, self.weights[name].astype(self.dtype))
        return self._initializer(name, rows)

    def _initializer(self, name: str, rows: slice | None) -> str:
        first, stop, _ = (rows or slice(None)).indices(len(self.stored[name]))
        output = name if rows is None else f"{name}.{first}"
        self.initializers[output] = WeightSlice(name, first, stop - first)
        return output

    def linear(self, x: str | Bytes | QuantizedRows, name: str, rows: slice | None = None) -> str:
        """Add ``x @ weight.T + bias`` for x [M, K]; ``rows`` picks output features."""
        bias = self.weight(f"{name}.bias", rows)
        if isinstance(x, str):
            return self.op("Gemm", x, self.weight(f"{name}.weight", rows), bias, transB=1)
        weight, scale = self._quantized_weight(name, rows)
        if isinstance(x, Bytes):
            offset = self.op("Mul", self._column_sums(weight, scale), self.scalar(x.offset))
            return self._product(x.values, x.factor, weight, scale, 0, self.op("Add", bias, offset))
        if x.shift:
            column_sums = self.op("Reshape", self._column_sums(weight, scale), self.ints(1, -1))
            bias = self.op("Gemm", x.shift, column_sums, bias, alpha=-1.0)
        product = self._product(x.values, 1.0, weight, scale, x.zero)
        return self.op("Add", self.op("Mul", product, x.scale), bias)

    def _product(
        self, values: str, factor: float, weight: str, scale: str, zero: int, bias: str | None = None
    ) -> str:
        """Add ``factor * (values - zero) @ (weight * scale).T + bias`` of uint8 values and an int8 weight."""
        columns = self.op("Transpose", weight, perm=[1, 0])
        inputs = [values, columns, self.scalar(factor), scale, self.scalar(zero, np.uint8)]
        more = ["", bias] if bias else []
        return self.op("MatMulIntegerToFloat", *inputs, *more, domain=ONNX_RUNTIME_DOMAIN)

    def _column_sums(self, weight: str, scale: str) -> str:
        """Add the layer's output for inputs that are all 1, float32 [N]; a constant, so computed at load."""
        sums = self.op("ReduceSum", self.op("Cast", weight, to=TensorProto.FLOAT), self.ints(1), keepdims=0)
        return self.op("Mul", sums, scale)

    def _quantized_weight(self, name: str, rows: slice | None) -> tuple[str, str]:
        """Add an int8 weight [N, K] and its float32 scales [N]; ``rows`` picks output features."""
        if f"{name}.weight_int8" not in self.stored:
            quantized = self.quantized.get(name) or quantize_weight(self.weights[f"{name}.weight"])
            self.stored[f"{name}.weight_int8"] = quantized.values
            self.stored[f"{name}.weight_scale"] = quantized.scale
        return self._initializer(f"{name}.weight_int8", rows), self._initializer(f"{name}.weight_scale", rows)

    def activations(self, x: str, minimum: float | None = None) -> str | QuantizedRows:
        """Convert x [M, K] to the input of a linear layer; ``minimum``: a lower bound of all values."""
        if self.precision != "int8":
            return x
        if minimum is not None:
            return self._activations_from(x, minimum)
        largest, smallest = (self.op(op, x, self.ints(1), keepdims=1) for op in ("ReduceMax", "ReduceMin"))
        floor = self.scalar(float(np.finfo(np.float32).tiny) * ACTIVATION_STEPS)
        magnitude = self.op("Max", largest, self.op("Neg", smallest), floor)
        scale = self.op("Div", magnitude, self.scalar(ACTIVATION_STEPS))
        row_scales = self.op("Reshape", scale, self.ints(-1))
        zeros = self.op("Expand", self.scalar(ACTIVATION_ZERO, np.uint8), self.op("Shape", row_scales))
        values = self.op("QuantizeLinear", x, row_scales, zeros, axis=0)
        return QuantizedRows(values, scale, ACTIVATION_ZERO)

    def _activations_from(self, x: str, minimum: float) -> QuantizedRows:
        """Quantise x with all 255 steps above ``minimum``: each row has its own zero point."""
        largest = self.op("Max", self.op("ReduceMax", x, self.ints(1), keepdims=1), self.scalar(0.0))
        scale = self.op("Div", self.op("Add", largest, self.scalar(-minimum)), self.scalar(BYTE_STEPS))
        zero = self.op("Round", self.op("Div", self.scalar(-minimum), scale))
        zeros = self.op("Cast", self.op("Reshape", zero, self.ints(-1)), to=TensorProto.UINT8)
        values = self.op("QuantizeLinear", x, self.op("Reshape", scale, self.ints(-1)), zeros, axis=0)
        return QuantizedRows(values, scale, 0, self.op("Mul", zero, scale))

    def normed(self, x: str, name: str) -> str | Bytes | QuantizedRows:
        """Add a LayerNorm of x [M, K]; its output is ready for a linear layer."""
        y = self.layer_norm(x, name)
        is_even = ROTATION in self.weights and len(self.weights[ROTATION]) >= MIN_EVEN_WIDTH
        if self.precision != "int8" or not is_even:
            return self.activations(y)
        step = NORMED_MAX / ACTIVATION_STEPS
        values = self.op("QuantizeLinear", y, self.scalar(step), self.scalar(ACTIVATION_ZERO, np.uint8))
        return Bytes(values, step, -step * ACTIVATION_ZERO)

    def layer_norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=LAYER_NORM_EPS)

    def finish(self, name: str, inputs: list[list[Any]], outputs: list[list[Any]]) -> GraphAndWeights:
        """Return the graph; inputs and outputs are ``[name, ONNX type, shape]`` each."""
        constants = [onnx.numpy_helper.from_array(value, key) for key, value in self.constants.items()]
        takes, gives = ([helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs))
        graph = helper.make_graph(self.nodes, f"sfavivit_{name}", takes, gives, constants)
        return GraphAndWeights(graph, self.stored, self.initializers)


def onnx_type(dtype: Any) -> int:
    """Return the ``TensorProto`` number of a NumPy dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
