"""The spatial engine on an NVIDIA GPU (``latency --device cuda``): engines, precisions, share of the ceiling.

    torch        the modules of ``sfavivit.models.vivit``: eager; graph (recorded as a CUDA graph); compile;
                 compile-graph (``reduce-overhead``: compiled, then recorded)
    onnxruntime  its CUDA provider, fp16
    tensorrt     plans built here

docs/benchmarks.md has the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import Case, Figure, Row
from benchmarks.measuring import cosines, timed
from benchmarks.models import random_model, random_repository, spatial_operations
from benchmarks.videos import random_frames
from export.plans import PlanOptions, export_plans
from sfavivit.config import ModelDimensions, named_dimensions
from sfavivit.engines import load_engine
from sfavivit.errors import EngineError, SfaVivitError
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.repository.manifest import PlanPrecision, Repository
from sfavivit.types import Features, Frames

LONG_FRAMES = 128
SAMPLE_SECONDS = 0.3  # of calls in a sample
CEILING_SIDE = 8192
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UPS = 3  # runs before a recording, as PyTorch's documentation of CUDA graphs asks for
RECOMPILATIONS = 256  # one a chunk and precision; at PyTorch's own limit of 8 it would fall back to eager

Run = Callable[[Frames], Features]
"""uint8 [1, F, H, W, 3] -> float32 [1, F / t, D], both in host memory."""


class Variant(NamedTuple):
    """An engine, its mode and precision."""

    engine: str
    mode: str
    precision: PlanPrecision

    def __str__(self) -> str:
        return "/".join(self)


VARIANTS = (
    *(
        Variant("torch", mode, precision)
        for mode in ("eager", "graph", "compile", "compile-graph")
        for precision in ("fp16", "bf16")
    ),
    Variant("onnxruntime", "cuda", "fp16"),
    Variant("tensorrt", "plan", "fp16"),
    Variant("tensorrt", "plan", "bf16"),
)
ENGINES = tuple(dict.fromkeys(variant.engine for variant in VARIANTS))


class Opened(NamedTuple):
    """A variant that runs, the smallest cosine of its features with fp32, and the GPU memory that it took."""

    run: Run
    cosine: float
    memory_mib: float | None = None


def measure(
    variants: Sequence[Variant],
    sizes: Sequence[str],
    chunks: Sequence[int],
    rounds: int,
    folder: Path,
    left_out: Callable[[str], None],
) -> list[Row]:
    """Return a row for each variant that runs here, size and chunk (tubelets per call).

    Repositories go to ``folder``. ``left_out`` is called with each variant left out, and the reason.

    Raises:
        UsageError: an unknown size.
        EngineError: no GPU, or no engine that can use it.
    """
    by_size = {size: named_dimensions(size, {"": 1}) for size in sizes}
    gpu = gpu_name()
    found: list[Row] = []
    for size, dims in by_size.items():
        opened = open_variants(variants, size, random_model(size).spatial, chunks, folder, left_out)
        found += sweep(opened, dims, chunks, rounds, matrix_rate, {"gpu": gpu, "size": size})
    if not found:
        raise EngineError(
            f"no engine can use {gpu}; install one of: PyTorch with CUDA, onnxruntime-gpu, tensorrt"
        )
    return found


def gpu_name() -> str:
    """Return the name of the GPU in use; raise ``EngineError`` where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        from sfavivit.engines.cuda import current_gpu  # noqa: PLC0415 - an optional package

        return current_gpu().name
    except (ImportError, EngineError) as error:
        raise EngineError(
            f"no NVIDIA GPU to measure: PyTorch sees none ({error}); use --device cpu"
        ) from error


def choose(engines: Sequence[str] | None, precisions: Sequence[str] | None) -> list[Variant]:
    """Return the variants of these engines and precisions; of all, where none are given."""
    return [
        variant
        for variant in VARIANTS
        if (not engines or variant.engine in engines) and (not precisions or variant.precision in precisions)
    ]


def open_variants(
    variants: Sequence[Variant],
    size: str,
    model: SpatialTransformer,
    chunks: Sequence[int],
    folder: Path,
    left_out: Callable[[str], None],
) -> dict[Variant, Opened]:
    """Open the variants that run, and run them on every chunk, so that each shape is compiled or recorded."""
    frames = {chunk: _frames(model.dims, chunk) for chunk in chunks}
    with torch.inference_mode():
        expected = model(torch.from_numpy(frames[min(chunks)])).numpy()
    opened = {}
    for variant in variants:
        try:
            free = _free_mib()
            run = open_run(variant, size, model, chunks, folder)
            cosine = float(cosines(run(frames[min(chunks)]), expected).min())
            for chunk in chunks:
                run(frames[chunk])
            opened[variant] = Opened(run, cosine, free - _free_mib() if free else None)
        except (SfaVivitError, RuntimeError) as error:  # of PyTorch: out of memory, a compiler that fails
            left_out(f"left out: size {size}, {variant}: {' '.join(str(error).split()):.300}")
    return opened


def _free_mib() -> float:
    """Return the free memory of the GPU in MiB, 0 where PyTorch does not see it."""
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.empty_cache()  # else a variant would take the memory that another one gave back
    return float(torch.cuda.mem_get_info()[0]) / (1 << 20)


def sweep(
    opened: dict[Variant, Opened],
    dims: ModelDimensions,
    chunks: Sequence[int],
    rounds: int,
    ceiling: Callable[[str], float | None],
    case: Case,
) -> list[Row]:
    """Time every variant on every chunk in turn, ``rounds`` times.

    ``ceiling``: precision -> operations a second of a large product, ``None`` where that is unknown.
    """
    calls: dict[tuple[Variant, int], list[float]] = {}
    ceilings: dict[str, list[float | None]] = {}
    for _ in range(rounds):
        for precision in dict.fromkeys(variant.precision for variant in opened):
            ceilings.setdefault(precision, []).append(ceiling(precision))
        for chunk in chunks:
            frames = _frames(dims, chunk)
            for variant, one in opened.items():
                calls.setdefault((variant, chunk), []).append(call_seconds(one.run, frames))
    rows = []
    for (variant, chunk), seconds in calls.items():
        figures = _figures(variant, chunk, np.array(seconds), ceilings[variant.precision], dims)
        figures["cosine"] = Figure("", "higher", (opened[variant].cosine,))
        if memory := opened[variant].memory_mib:
            figures["memory"] = Figure("MiB", "lower", (memory,))
        rows.append(Row({**variant._asdict(), "chunk": chunk, **case}, figures))
    return rows


def _figures(
    variant: Variant,
    chunk: int,
    seconds: NDArray[np.float64],
    ceilings: Sequence[float | None],
    dims: ModelDimensions,
) -> dict[str, Figure]:
    operations = chunk * spatial_operations(dims, last_block_for_cls=variant.engine != "torch")
    clip = LONG_FRAMES / dims.tubelet_frames / chunk
    figures = {
        "throughput": Figure("tubelets/s", "higher", tuple(chunk / seconds)),
        "call": Figure("ms", "lower", tuple(1e3 * seconds)),
        f"{LONG_FRAMES} frames": Figure("ms", "lower", tuple(1e3 * clip * seconds)),
        "rate": Figure("TFLOP/s", "higher", tuple(operations / seconds / 1e12)),
    }
    if None not in ceilings:
        rates = np.array(ceilings, float)
        figures["ceiling"] = Figure("TFLOP/s", "higher", tuple(rates / 1e12))
        figures["of the ceiling"] = Figure("share", "higher", tuple(operations / seconds / rates))
    return figures


def call_seconds(run: Run, frames: Frames) -> float:
    """Return the mean seconds of as many calls as fill ``SAMPLE_SECONDS``."""
    count = max(1, int(SAMPLE_SECONDS / max(timed(lambda: run(frames)), 1e-6)))
    return timed(lambda: [run(frames) for _ in range(count)]) / count


def matrix_rate(precision: str) -> float | None:
    """Return the operations a second of a large ``torch.mm``; ``None`` if PyTorch sees no GPU."""
    if not torch.cuda.is_available():
        return None
    side = CEILING_SIDE
    a, b = (torch.randn(side, side, device="cuda", dtype=DTYPES[precision]) for _ in range(2))

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b)
        torch.cuda.synchronize()

    products(1)
    count = max(1, int(SAMPLE_SECONDS / timed(lambda: products(1))))
    return count * 2 * side**3 / timed(lambda: products(count))


def _frames(dims: ModelDimensions, chunk: int) -> Frames:
    return random_frames(chunk * dims.tubelet_frames, dims.image_size)[None]


def open_run(
    variant: Variant, size: str, model: SpatialTransformer, chunks: Sequence[int], folder: Path
) -> Run:
    """Open ``variant`` of ``model``, which is the spatial half of ``random_model(size)``, for these chunks.

    Raises:
        SfaVivitError: its packages are missing, or it cannot use the GPU.
    """
    if variant.engine == "torch":
        if not torch.cuda.is_available():
            raise EngineError("this PyTorch does not see the GPU; install one that is built with CUDA")
        return torch_run(model, variant.mode, DTYPES[variant.precision], "cuda")
    if variant.engine == "onnxruntime":
        repository = Repository.load(random_repository(folder / f"{size}-fp16", size, "fp16"))
        return load_engine("onnxruntime", repository, device="cuda").spatial
    plans = random_repository(folder / f"{size}-plans-{variant.precision}", size, "fp32")
    if not Repository.load(plans).manifest.plans:
        export_plans(plans, PlanOptions(variant.precision, small_chunk=min(chunks), large_chunk=max(chunks)))
    return load_engine("tensorrt", Repository.load(plans)).spatial


def torch_run(model: SpatialTransformer, mode: str, dtype: torch.dtype, device: str) -> Run:
    """Return a run of a copy of ``model`` on ``device``; ``mode`` as in ``VARIANTS``."""
    module: Any = deepcopy(model).to(device, dtype).eval()
    if mode.startswith("compile"):
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        kind = "reduce-overhead" if mode == "compile-graph" else "default"
        module = torch.compile(module, dynamic=False, mode=kind)
    elif mode == "graph":
        module = _Recorded(module)

    def run(frames: Frames) -> Features:
        with torch.inference_mode():
            host = torch.from_numpy(frames)
            if device == "cuda":
                host = host.pin_memory()  # from page-locked memory the GPU copies by itself
            features: Features = module(host.to(device, non_blocking=True)).float().cpu().numpy()
        return features

    return run


class _Recorded:
    """``module`` as a CUDA graph for each shape of its input, recorded when first seen."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._graphs: dict[torch.Size, tuple[Any, Tensor, Tensor]] = {}

    def __call__(self, frames: Tensor) -> Tensor:
        if frames.shape not in self._graphs:
            self._graphs[frames.shape] = self._record(frames.clone())
        graph, takes, gives = self._graphs[frames.shape]
        takes.copy_(frames)
        graph.replay()
        return gives

    def _record(self, takes: Tensor) -> tuple[Any, Tensor, Tensor]:
        cuda: Any = torch.cuda  # annotated in part
        current, side = cuda.current_stream(), cuda.Stream()
        side.wait_stream(current)
        with cuda.stream(side):
            for _ in range(WARM_UPS):
                self._module(takes)
        current.wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            gives = self._module(takes)
        return graph, takes, gives
