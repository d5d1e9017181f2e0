"""Rate of the machine's matrix products, and the share of it that the spatial engine reaches.

    matrix product   each library's rate at the linear layers of a spatial block, M = tokens of a chunk
    spatial engine   tubelets a second x operations a tubelet, as a share of the fastest of these
    operator         the engine's time by ONNX operator, from ONNX Runtime's profiler

The ceiling is the rate over a block's four layers, one after the other. Operations are counted as the graph
computes them (the last block for the CLS token alone), and as the full model would, since work left out is
speed, too. The share of an int8 engine counts its attention as if that were int8, which it is not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray

from benchmarks.command_options import ModelsFolder, Out, Rounds, Size
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.matrix_kernels import Kernel, Product, kernels, product_rate, session_options
from benchmarks.measuring import timed
from benchmarks.models import layer_shapes, random_repository, spatial_operations
from sfavivit.dimensions import ModelDimensions, named_dimensions
from sfavivit.engines import load_engine
from sfavivit.engines.base import Engine, Frames
from sfavivit.errors import UsageError
from sfavivit.repository import FRAMES, Precision, Repository

ALL_LAYERS = "all layers"
ENGINE = "spatial engine"
OTHERS, MIN_SHARE = "others", 0.005  # operators with a smaller share of the time are one row
CALLS = 3  # calls of a product in a round; the fastest counts, since a ceiling is what is possible
EMULATED = 1 / 4  # of the rate of fp32: a slower bf16 has no instructions of this processor
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

Rates = dict[str, list[float]]
"""Layer -> operations a second, one a round."""


def command(
    size: Size = "B",
    precision: Annotated[
        list[str] | None, typer.Option(help="Precision of the engine; repeatable (default: fp32, int8).")
    ] = None,
    chunk_tubelets: Annotated[int, typer.Option(min=1, help="Tubelets per engine call.")] = 4,
    rounds: Rounds = 5,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """Measure the machine's rate of matrix products, and the share that the spatial engine reaches."""
    with TemporaryDirectory() as scratch:
        folder = (models or Path(scratch)) / size
        rows = measure(size, precision or PRECISIONS, chunk_tubelets, rounds, folder)
    report("limit", rows, out)


def measure(
    size: str, precisions: Sequence[str], chunk_tubelets: int, rounds: int, folder: Path
) -> list[Row]:
    """Return rows of all three kinds; repositories are made in ``folder``.

    Raises:
        UsageError: an unknown size or precision.
    """
    dims = named_dimensions(size, {"": 1})
    chosen = [precision for precision in PRECISIONS if precision in precisions]
    if unknown := set(precisions) - set(PRECISIONS):
        raise UsageError(f"no such precision {min(unknown)!r}; choose of {', '.join(PRECISIONS)}")
    case: Case = {"size": size, "chunk tubelets": chunk_tubelets}
    shape = (1, chunk_tubelets * dims.tubelet_frames, dims.image_size, dims.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    repositories = {
        precision: Repository.load(random_repository(folder / precision, size, precision))
        for precision in chosen
    }
    engines: dict[str, Engine] = {
        precision: load_engine("onnxruntime", repository) for precision, repository in repositories.items()
    }
    rates, seconds = take_rounds(dims, engines, frames, rounds)
    found = product_rows(rates, case)
    for precision, repository in repositories.items():
        found.append(engine_row(precision, seconds[precision], rates, dims, case))
        shares = operator_shares(repository.spatial_file("model.onnx"), frames, rounds)
        for operator, samples in shares.items():
            figures = {"time": Figure("share", "neither", samples)}
            found.append(Row({"what": "operator", "precision": precision, "name": operator, **case}, figures))
    return found


def take_rounds(
    dims: ModelDimensions, engines: dict[str, Engine], frames: Frames, rounds: int
) -> tuple[dict[Kernel, Rates], dict[str, list[float]]]:
    """Run every kernel and every engine in turn.

    Returns the rates of the kernels in operations a second, and the seconds of the engines for a chunk.
    """
    chunk = frames.shape[1] // dims.tubelet_frames
    tokens, shapes = chunk * (dims.patches + 1), layer_shapes(dims)
    products = {
        kernel: {layer: (kernel.make(tokens, k, n), 2 * tokens * k * n) for layer, (k, n) in shapes.items()}
        for kernel in kernels()
        if kernel.precision != "bf16" or not bf16_is_emulated()
    }
    rates: dict[Kernel, Rates] = {kernel: defaultdict(list) for kernel in products}
    seconds: dict[str, list[float]] = {precision: [] for precision in engines}
    for engine in engines.values():
        engine.spatial(frames)
    for _ in range(rounds):
        for kernel, layers in products.items():
            _time_layers(layers, rates[kernel])
        for precision, engine in engines.items():
            seconds[precision].append(timed(lambda engine=engine: engine.spatial(frames)))  # type: ignore[misc]
    return rates, seconds


def bf16_is_emulated() -> bool:
    """Return whether this processor lacks bf16 instructions: then a product takes a hundred times as long."""
    return product_rate(torch.bfloat16) < EMULATED * product_rate(torch.float32)


def _time_layers(layers: dict[str, tuple[Product, int]], rates: Rates) -> None:
    total_seconds, total = 0.0, 0
    for layer, (product, operations) in layers.items():
        seconds = min(timed(product) for _ in range(CALLS))
        rates[layer].append(operations / seconds)
        total_seconds, total = total_seconds + seconds, total + operations
    rates[ALL_LAYERS].append(total / total_seconds)


def product_rows(rates: dict[Kernel, Rates], case: Case) -> list[Row]:
    """Return a row for each kernel, with a figure for each layer."""
    return [
        Row(
            {
                "what": "matrix product",
                "precision": kernel.precision,
                "name": f"{kernel.runtime} {kernel.name}",
                **case,
            },
            {
                layer: Figure("GOP/s", "higher", tuple(rate / 1e9 for rate in samples))
                for layer, samples in layers.items()
            },
        )
        for kernel, layers in rates.items()
    ]


def engine_row(
    precision: str, seconds: list[float], rates: dict[Kernel, Rates], dims: ModelDimensions, case: Case
) -> Row:
    """Compare an engine's ``seconds`` for a chunk, one a round, with kernels of its precision.

    ``rates`` are those of the same rounds.
    """
    rate = float(case["chunk tubelets"]) / np.array(seconds)
    operations = spatial_operations(dims, last_block_for_cls=True)
    full = spatial_operations(dims, last_block_for_cls=False)
    figures = {
        "tubelets": Figure("tubelets/s", "higher", tuple(rate)),
        "rate": Figure("GOP/s", "higher", tuple(rate * operations / 1e9)),
        "operations": Figure("GOP/tubelet", "neither", (operations / 1e9,)),
        "full model": Figure("GOP/tubelet", "neither", (full / 1e9,)),
    }
    same = [kernel for kernel in rates if kernel.precision == precision]
    ceiling = _fastest(same, rates)
    runtime_ceiling = _fastest([kernel for kernel in same if kernel.runtime == "onnxruntime"], rates)
    figures |= {
        "of the ceiling": Figure("share", "higher", tuple(rate * operations / ceiling)),
        "of ONNX Runtime's ceiling": Figure("share", "higher", tuple(rate * operations / runtime_ceiling)),
        "of that, as the full model": Figure("share", "higher", tuple(rate * full / runtime_ceiling)),
    }
    return Row({"what": ENGINE, "precision": precision, "name": "onnxruntime", **case}, figures)


def _fastest(group: list[Kernel], rates: dict[Kernel, Rates]) -> NDArray[np.float64]:
    """Return the rates over all layers, float64 [rounds], of the kernel with the highest median."""
    best = max(group, key=lambda kernel: median(rates[kernel][ALL_LAYERS]))
    return np.array(rates[best][ALL_LAYERS])


def operator_shares(model: Path, frames: Frames, runs: int) -> dict[str, tuple[float, ...]]:
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
