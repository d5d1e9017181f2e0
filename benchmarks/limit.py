"""Rate of the machine's matrix products, and the share of it that the spatial engine reaches.

docs/benchmarks.md has the method.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.command_options import ModelsFolder, Names, Out, Rounds, Size, check_known
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.measuring import timed
from benchmarks.models import layer_shapes, product_rate, random_repository, spatial_operations
from benchmarks.videos import random_frames
from sfavivit.config import ModelDimensions, named_dimensions
from sfavivit.engines import load_engine
from sfavivit.engines.base import Engine
from sfavivit.repository.manifest import FRAMES, Precision, Repository
from sfavivit.types import Frames
from sfavivit.utils.cpus import available_cpus

ALL_LAYERS = "all layers"
ENGINE = "spatial engine"
OTHERS, MIN_SHARE = "others", 0.005  # operators with a smaller share of the time are one row
CALLS = 3  # calls of a product in a round; the fastest counts, since a ceiling is what is possible
EMULATED = 1 / 4  # of the rate of fp32: a slower bf16 has no instructions of this processor
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

OPSET, IR_VERSION = 20, 9

Product = Callable[[], object]
Rates = dict[str, list[float]]
"""Layer -> operations a second, one a round."""


def command(
    size: Size = "B",
    precision: Annotated[
        Names, typer.Option(help="Precision of the engine; repeatable (default: fp32, int8).")
    ] = None,
    chunk_tubelets: Annotated[int, typer.Option(min=1, help="Tubelets per engine call.")] = 4,
    rounds: Rounds = 5,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """Measure the machine's rate of matrix products, and the share that the spatial engine reaches."""
    dims = named_dimensions(size, {"": 1})
    check_known("precision", precision, PRECISIONS)
    case: Case = {"size": size, "chunk tubelets": chunk_tubelets}
    frames = random_frames(chunk_tubelets * dims.tubelet_frames, dims.image_size)[None]
    with TemporaryDirectory() as scratch:
        folder = (models or Path(scratch)) / size
        repositories = {
            name: Repository.load(random_repository(folder / name, size, name))
            for name in PRECISIONS
            if name in (precision or PRECISIONS)
        }
        engines: dict[str, Engine] = {
            name: load_engine("onnxruntime", repository, device="cpu")
            for name, repository in repositories.items()
        }
        rates, seconds = _take_rounds(dims, engines, frames, rounds)
        rows = product_rows(rates, case)
        for name, repository in repositories.items():
            rows.append(engine_row(name, seconds[name], rates, dims, case))
            shares = _operator_shares(repository.spatial_file("model.onnx"), frames, rounds)
            for operator, samples in shares.items():
                figures = {"time": Figure("share", "neither", samples)}
                rows.append(Row({"what": "operator", "precision": name, "name": operator, **case}, figures))
    report("limit", rows, out)


def _take_rounds(
    dims: ModelDimensions, engines: dict[str, Engine], frames: Frames, rounds: int
) -> tuple[dict[Kernel, Rates], dict[str, list[float]]]:
    """Run every kernel and every engine in turn.

    Returns the rates of the kernels in operations a second, and the seconds of the engines for a chunk.
    """
    chunk = frames.shape[1] // dims.tubelet_frames
    tokens, shapes = chunk * (dims.patches + 1), layer_shapes(dims)
    products = {
        (kernel, layer): (kernel.make(tokens, k, n), 2 * tokens * k * n)
        for kernel in kernels()
        if kernel.precision != "bf16" or not _bf16_is_emulated()
        for layer, (k, n) in shapes.items()
    }
    rates: dict[Kernel, Rates] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = {precision: [] for precision in engines}
    for engine in engines.values():
        engine.spatial(frames)
    for _ in range(rounds):
        totals: dict[Kernel, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for (kernel, layer), (product, operations) in products.items():
            fastest = min(timed(product) for _ in range(CALLS))
            rates[kernel][layer].append(operations / fastest)
            totals[kernel][0] += operations
            totals[kernel][1] += fastest
        for kernel, (total_operations, total_seconds) in totals.items():
            rates[kernel][ALL_LAYERS].append(total_operations / total_seconds)
        for precision, engine in engines.items():
            seconds[precision].append(timed(partial(engine.spatial, frames)))
    return rates, seconds


def _bf16_is_emulated() -> bool:
    """Return whether this processor lacks bf16 instructions: then a product takes a hundred times as long."""
    return product_rate(torch.bfloat16) < EMULATED * product_rate(torch.float32)


def product_rows(rates: dict[Kernel, Rates], case: Case) -> list[Row]:
    """Return a row for each kernel, with a figure for each layer."""
    rows = []
    for kernel, layers in rates.items():
        name = f"{kernel.runtime} {kernel.name}"
        figures = {
            layer: Figure("GOP/s", "higher", tuple(rate / 1e9 for rate in samples))
            for layer, samples in layers.items()
        }
        rows.append(
            Row({"what": "matrix product", "precision": kernel.precision, "name": name, **case}, figures)
        )
    return rows


def engine_row(
    precision: str, seconds: list[float], rates: dict[Kernel, Rates], dims: ModelDimensions, case: Case
) -> Row:
    """Compare an engine's ``seconds`` for a chunk, one a round, with kernels of its precision.

    ``rates`` are those of the same rounds.
    """
    rate = float(case["chunk tubelets"]) / np.array(seconds)
    operations = spatial_operations(dims, last_block_for_cls=True)
    full = spatial_operations(dims, last_block_for_cls=False)
    same = [kernel for kernel in rates if kernel.precision == precision]
    ceiling = _fastest(same, rates)
    runtime_ceiling = _fastest([kernel for kernel in same if kernel.runtime == "onnxruntime"], rates)
    figures = {
        "tubelets": Figure("tubelets/s", "higher", tuple(rate)),
        "rate": Figure("GOP/s", "higher", tuple(rate * operations / 1e9)),
        "operations": Figure("GOP/tubelet", "neither", (operations / 1e9,)),
        "full model": Figure("GOP/tubelet", "neither", (full / 1e9,)),
        "of the ceiling": Figure("share", "higher", tuple(rate * operations / ceiling)),
        "of ONNX Runtime's ceiling": Figure("share", "higher", tuple(rate * operations / runtime_ceiling)),
        "of that, as the full model": Figure("share", "higher", tuple(rate * full / runtime_ceiling)),
    }
    return Row({"what": ENGINE, "precision": precision, "name": "onnxruntime", **case}, figures)


def _fastest(group: list[Kernel], rates: dict[Kernel, Rates]) -> NDArray[np.float64]:
    """Return the rates over all layers, float64 [rounds], of the kernel with the highest median."""
    best = max(group, key=lambda kernel: median(rates[kernel][ALL_LAYERS]))
    return np.array(rates[best][ALL_LAYERS])


def _operator_shares(model: Path, frames: Frames, runs: int) -> dict[str, tuple[float, ...]]:
    """Return the share of each ONNX operator in the time of all nodes, one a run; the largest first.

    Operators are those after ONNX Runtime's own optimisations, which fuse some of them.
    """
    options = session_options()
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session: Any = ort.InferenceSession(model, options)
        for _ in range(1 + runs):
            session.run(None, {FRAMES: frames})
        events = json.loads(Path(session.end_profiling()).read_text())
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    taken: dict[str, list[float]] = defaultdict(lambda: [0.0] * (1 + runs))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            run = int(np.searchsorted(starts, event["ts"], "right")) - 1
            taken[event["args"]["op_name"]][run] += event["dur"]
    totals = np.sum(list(taken.values()), axis=0)
    found: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(runs))
    for name, times in taken.items():
        shares = (np.array(times) / totals)[1:]  # the first run warms up
        found[name if float(np.median(shares)) >= MIN_SHARE else OTHERS] += shares
    ordered = sorted(found, key=lambda name: -float(np.median(found[name])))
    return {name: tuple(map(float, found[name])) for name in ordered}


class Kernel(NamedTuple):
    """Matrix product of a runtime; ``make(m, k, n)`` returns one of random matrices."""

    runtime: str
    precision: str
    name: str
    make: Callable[[int, int, int], Product]


def kernels() -> list[Kernel]:
    """Return the kernels that can run here; numpy's BLAS and PyTorch use the cores of this process."""
    return [
        Kernel("onnxruntime", "fp32", "MatMul", partial(_onnx, np.float32)),
        Kernel("torch", "fp32", "mm", partial(_torch, torch.float32)),
        Kernel("numpy", "fp32", "matmul", _numpy),
        Kernel("torch", "bf16", "mm", partial(_torch, torch.bfloat16)),
        Kernel("onnxruntime", "int8", "MatMulInteger u8 x u8", partial(_onnx, np.uint8)),
        Kernel("onnxruntime", "int8", "MatMulInteger u8 x s8", partial(_onnx, np.int8)),
        *(
            Kernel("torch", "int8", f"quantized.linear {engine}", partial(_torch_quantized, engine))
            for engine in ("fbgemm", "onednn")
            if engine in torch.backends.quantized.supported_engines
        ),
    ]


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


def _onnx(weight: type[np.generic], m: int, k: int, n: int) -> Product:
    """Return a MatMul of float32, or a MatMulInteger of uint8 with weights uint8 or int8."""
    constants: dict[str, NDArray[Any]] = {"b": _random(weight, k, n)}
    operator, a, gives = "MatMul", _random(np.float32, m, k), TensorProto.FLOAT
    if weight is not np.float32:
        operator, a, gives = "MatMulInteger", _random(np.uint8, m, k), TensorProto.INT32
        constants["za"] = np.array(128, np.uint8)
        constants["zb"] = np.array(128 if weight is np.uint8 else 0, weight)
    node = helper.make_node(operator, ["a", *constants], ["c"])
    takes = helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
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
    options.intra_op_num_threads = available_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _random(dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype is np.float32:
        return rng.standard_normal(shape, np.float32)
    limits = np.iinfo(dtype)  # type: ignore[type-var]  # an integer type
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
