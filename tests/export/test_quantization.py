"""int8 weights: close to what they stand for, and exact in every kernel."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.graph_builder import LAYER_NORM_EPS, MIN_EVEN_WIDTH, NORMED_MAX, OPSETS, GraphBuilder
from export.graphs import GELU_MIN
from export.quantization import ACTIVATION_ZERO, quantize_weight
from sfavivit.models.rotation import ROTATION

WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)


@given(WEIGHTS)
def test_no_two_neighbours_can_saturate_16_bits(weight: Any) -> None:
    values, scale = quantize_weight(weight)
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    columns = values.astype(int)
    for k in range(0, columns.shape[1] - 1, 2):
        for products in (255 * columns[:, k : k + 2].clip(0), 255 * columns[:, k : k + 2].clip(None, 0)):
            assert (abs(products.sum(axis=1)) <= 32767).all()
    assert (abs(values * scale[:, None] - weight) <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("kind", ["random", "all large", "pairs of one sign"])
def test_the_kernel_adds_exactly(kind: str) -> None:
    """The worst activations there are, against numpy: fails where a kernel saturates.

    Weights of full range fail it on CPUs without VNNI.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(48, 256)).astype(np.float32)
    if kind != "random":
        weight = np.where(kind == "all large", 1, np.sign(weight).repeat(2, 1)[:, :256]).astype(np.float32)
        weight = np.broadcast_to(weight, (48, 256))
    values, _ = quantize_weight(weight)
    activations = np.where(rng.random((8, 256)) < 0.5, 1, 255).astype(np.uint8)
    activations[0], activations[1] = 255, 1
    constants = {"b": np.ascontiguousarray(values.T), "one": np.float32(1), "zero": np.uint8(ACTIVATION_ZERO)}
    node = helper.make_node(  # the operator that the graphs use
        "MatMulIntegerToFloat", ["x", "b", "one", "one", "zero"], ["y"], domain="com.microsoft"
    )
    found = _run([node], constants, "y", activations)
    expected = (activations.astype(int) - ACTIVATION_ZERO) @ values.astype(int).T
    np.testing.assert_array_equal(found, expected)


def test_what_comes_from_a_gelu_has_all_steps() -> None:
    """Each result is off by no more than half a step of each activation, and of 255 steps, not 127."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(9, 64)).astype(np.float32) + np.float32(GELU_MIN)
    x[0], x[1], x[2], x[3, 5], x[4] = GELU_MIN, 0, -0.17, 300, x[4] * 1e-3
    g, weight, bias = _layer(64)
    output = g.linear(g.activations("x", GELU_MIN), "fc")
    found = _run(g.nodes, g.constants | g.stored, output, x)
    steps = (np.maximum(x.max(axis=1), 0) - GELU_MIN) / 255
    allowed = 0.501 * steps[:, None] * abs(weight).sum(axis=1)
    assert (abs(found - (x @ weight.T + bias)) <= allowed + 1e-5).all()


def test_what_a_norm_gives_in_a_turned_basis_has_one_step_for_all() -> None:
    """No row looks at another, what is too large is cut, and zero stays zero to the last bit."""
    width = MIN_EVEN_WIDTH
    g, weight, bias = _layer(width)
    g.weights |= {ROTATION: np.eye(width, dtype=np.float32)}
    g.weights |= {"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)}
    x = np.random.default_rng(1).normal(size=(9, width)).astype(np.float32)
    x[0], x[1, 0], x[2] = 0, 1e4, x[2] * 1e3
    output = g.linear(g.normed("x", "norm"), "fc")
    found = _run(g.nodes, g.constants | g.stored, output, x)
    centred = x.astype(np.float64) - x.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
    assert abs(normed).max() > NORMED_MAX, "that some are cut is what is tested"
    cut = normed.clip(-NORMED_MAX * 128 / 127, NORMED_MAX)
    allowed = 0.501 * NORMED_MAX / 127 * abs(weight).sum(axis=1)
    assert (abs(found - (cut @ weight.T + bias)) <= allowed + 1e-4).all()
    np.testing.assert_allclose(found[0], bias, atol=1e-5)


def _layer(width: int) -> tuple[GraphBuilder, Any, Any]:
    """A builder with a layer ``fc``, the weight as int8 stands for it, and the bias."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(16, width)).astype(np.float32)
    bias = rng.normal(size=16).astype(np.float32)
    values, scale = quantize_weight(weight)
    return GraphBuilder({"fc.weight": weight, "fc.bias": bias}, "int8"), values * scale[:, None], bias


def _run(nodes: list[onnx.NodeProto], constants: dict[str, Any], output: str, x: Any) -> Any:
    """The float32 value ``output`` that ONNX Runtime computes from a value ``x``."""
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid(name, version) for name, version in OPSETS.items()],
        ir_version=9,
    )
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
