"""Matrix products [M, K] x [K, N] of the installed libraries, with weights packed beforehand."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measuring import timed

Product = Callable[[], object]

OPSET, IR_VERSION = 20, 9
PROBE_ROWS, PROBE_SIDE = 256, 768  # small enough to be quick where a type is emulated
ONNX_TYPES = {np.float32: TensorProto.FLOAT, np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}


class Kernel(NamedTuple):
    """Matrix product of a runtime; ``make(m, k, n)`` returns one of random matrices."""

    runtime: str
    precision: str
    name: str
    make: Callable[[int, int, int], Product]


def kernels() -> list[Kernel]:
    """Return the kernels that can run here; numpy's BLAS and PyTorch use the cores of this process."""
    return [
        Kernel("onnxruntime", "fp32", "MatMul", _onnx_float),
        Kernel("torch", "fp32", "mm", partial(_torch, torch.float32)),
        Kernel("numpy", "fp32", "matmul", _numpy),
        Kernel("torch", "bf16", "mm", partial(_torch, torch.bfloat16)),
        Kernel("onnxruntime", "int8", "MatMulInteger u8 x u8", partial(_onnx_integer, np.uint8)),
        Kernel("onnxruntime", "int8", "MatMulInteger u8 x s8", partial(_onnx_integer, np.int8)),
        *(
            Kernel("torch", "int8", f"quantized.linear {engine}", partial(_torch_quantized, engine))
            for engine in ("fbgemm", "onednn")
            if engine in torch.backends.quantized.supported_engines
        ),
    ]


def product_rate(dtype: torch.dtype) -> float:
    """Return the operations a second of one small matrix product of PyTorch."""
    a = torch.ones(PROBE_ROWS, PROBE_SIDE, dtype=dtype)
    b = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype)
    seconds = min(timed(lambda: torch.mm(a, b)) for _ in range(3))
    return 2 * PROBE_ROWS * PROBE_SIDE**2 / seconds


def _numpy(m: int, k: int, n: int) -> Product:
    a, b = _random(np.float32, m, k), _random(np.float32, k, n)
    return lambda: a @ b


def _torch(dtype: torch.dtype, m: int, k: int, n: int) -> Product:
    a, b = (torch.from_numpy(_random(np.float32, *shape)).to(dtype) for shape in ((m, k), (k, n)))
    return lambda: torch.mm(a, b)


def _torch_quantized(engine: str, m: int, k: int, n: int) -> Product:
    quantized: Any = torch.ops.quantized
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what PyTorch's own quantised models run
        scales, zeros = torch.full((n,), 1e-2), torch.zeros(n, dtype=torch.long)
        b = torch.quantize_per_channel(torch.randn(n, k), scales, zeros, 0, torch.qint8)
        packed = quantized.linear_prepack(b, torch.zeros(n))
        a = torch.quantize_per_tensor(torch.randn(m, k), 1e-2, 128, torch.quint8)
    return lambda: quantized.linear(a, packed, 1e-1, 128)


def _onnx_float(m: int, k: int, n: int) -> Product:
    a, b = _random(np.float32, m, k), _random(np.float32, k, n)
    return _onnx(helper.make_node("MatMul", ["a", "b"], ["c"]), a, TensorProto.FLOAT, {"b": b})


def _onnx_integer(weight: type[np.generic], m: int, k: int, n: int) -> Product:
    a, b = _random(np.uint8, m, k), _random(weight, k, n)
    zeros = {"za": np.array(128, np.uint8), "zb": np.array(128 if weight is np.uint8 else 0, weight)}
    node = helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["c"])
    return _onnx(node, a, TensorProto.INT32, {"b": b, **zeros})


def _onnx(node: Any, a: NDArray[Any], gives: int, constants: dict[str, NDArray[Any]]) -> Product:
    """Return a run of ``node``, which takes "a" and constants and gives "c" of type ``gives``."""
    takes = helper.make_tensor_value_info("a", ONNX_TYPES[a.dtype.type], a.shape)
    output = helper.make_tensor_value_info("c", gives, [None, None])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "product", [takes], [output], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = ort.InferenceSession(model.SerializeToString(), session_options())
    return lambda: session.run(None, {"a": a})


def session_options() -> ort.SessionOptions:
    """Return session options as those of ``OnnxRuntimeEngine``."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _random(dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype is np.float32:
        return rng.standard_normal(shape, np.float32)
    limits = np.iinfo(dtype)  # type: ignore[type-var]  # an integer type
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)  # type: ignore[arg-type]
