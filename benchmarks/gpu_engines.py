"""What can run the spatial model on a GPU, each as one function from frames to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort
import torch
from torch import Tensor

from benchmarks.models import random_repository
from export.plans import PlanOptions, export_plans
from sfavivit.engines import load_engine
from sfavivit.engines.onnxruntime import CUDA, OnnxRuntimeEngine
from sfavivit.errors import EngineError
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.repository.manifest import PlanPrecision, Repository
from sfavivit.types import Features, Frames

Run = Callable[[Frames], Features]
"""uint8 [1, F, H, W, 3] -> float32 [1, F / t, D], both in host memory."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UPS = 3  # runs before a recording, as PyTorch's documentation of CUDA graphs asks for
RECOMPILATIONS = 256  # one a chunk and precision; at PyTorch's own limit of 8 it would fall back to eager


class Variant(NamedTuple):
    """An engine and how it runs."""

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


def open_run(
    variant: Variant, size: str, model: SpatialTransformer, chunks: Sequence[int], folder: Path
) -> Run:
    """``variant`` of ``model``, which is the spatial half of ``random_model(size)``, for these chunks.

    Raises:
        SfaVivitError: its packages are missing, or it cannot use the GPU.
    """
    if variant.engine == "torch":
        if not torch.cuda.is_available():
            raise EngineError("this PyTorch does not see the GPU; install one that is built with CUDA")
        return torch_run(model, variant.mode, DTYPES[variant.precision], "cuda")
    if variant.engine == "onnxruntime":
        return _onnxruntime_run(folder / f"{size}-fp16", size)
    return _tensorrt_run(folder / f"{size}-plans-{variant.precision}", size, variant.precision, chunks)


def torch_run(model: SpatialTransformer, mode: str, dtype: torch.dtype, device: str) -> Run:
    """A copy of ``model`` on ``device``; ``mode`` as in ``VARIANTS``."""
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
    """``module`` as a CUDA graph for each shape of its input, made when first seen."""

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


def _onnxruntime_run(folder: Path, size: str) -> Run:
    if CUDA not in ort.get_available_providers():
        raise EngineError("this onnxruntime has no CUDA: pip install onnxruntime-gpu in its place")
    engine = OnnxRuntimeEngine(Repository.load(random_repository(folder, size, "fp16")))
    if engine.provider != CUDA:
        raise EngineError("onnxruntime-gpu cannot use the GPU; it says why above")
    return engine.spatial


def _tensorrt_run(folder: Path, size: str, precision: PlanPrecision, chunks: Sequence[int]) -> Run:
    repository = Repository.load(random_repository(folder, size, "fp32"))
    if not repository.manifest.plans:
        options = PlanOptions(precision, small_chunk=min(chunks), large_chunk=max(chunks))
        export_plans(folder, options)
        repository = Repository.load(folder)
    return load_engine("tensorrt", repository).spatial
