"""The spatial engine on an NVIDIA GPU: every engine that is usable, by size and chunk.

    torch        the modules of ``sfavivit.models.vivit``, fp16, bf16: eager; graph (recorded as CUDA graph);
                 compile; compile-graph (``reduce-overhead``: compiled, then recorded)
    onnxruntime  its CUDA provider, fp16
    tensorrt     plans built here, fp16 and bf16

A call goes from uint8 frames in host memory to float32 features in host memory, so its copies count. Calls
follow one another, each awaited. The ceiling is the rate of one large ``torch.mm`` in the same precision and
the same rounds. Operations are those that the engine computes: our graphs leave some out, PyTorch none.

Not run on a GPU yet; the tests marked ``gpu`` say whether it is right where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import gpu_engines
from benchmarks.figures import Case, Figure, Row
from benchmarks.gpu_engines import DTYPES, Run, Variant
from benchmarks.models import random_model
from benchmarks.operations import spatial_operations, timed
from sfavivit.config import ModelDimensions, named_dimensions
from sfavivit.errors import EngineError, SfaVivitError, UsageError
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.types import Features, Frames

LONG_FRAMES = 128
SAMPLE_SECONDS = 0.3  # of calls in a sample
CEILING_SIDE = 8192

Tell = Callable[[str], None]
Ceiling = Callable[[str], float | None]
"""Precision -> operations a second of a large product; ``None`` where PyTorch does not see the GPU."""


class Opened(NamedTuple):
    """A variant that runs, and the smallest cosine of its features with those of PyTorch in fp32."""

    run: Run
    cosine: float


def measure(
    variants: Sequence[Variant],
    sizes: Sequence[str],
    chunks: Sequence[int],
    rounds: int,
    folder: Path,
    tell: Tell,
) -> list[Row]:
    """A row for each variant that runs here, size and chunk (tubelets); repositories go to ``folder``.

    ``tell``: is told what was left out, and why.

    Raises:
        UsageError: an unknown size.
        EngineError: no GPU, or nothing that can use it.
    """
    by_size = {size: named_dimensions(size, {"": 1}) for size in sizes}
    gpu = gpu_name()
    found: list[Row] = []
    for size, dims in by_size.items():
        model = random_model(size).spatial
        opened = open_variants(variants, size, model, chunks, folder, tell)
        found += sweep(opened, dims, chunks, rounds, matrix_rate, {"gpu": gpu, "size": size})
    if not found:
        raise EngineError(
            f"no engine can use {gpu}; install one of: PyTorch with CUDA, onnxruntime-gpu, tensorrt"
        )
    return found


def gpu_name() -> str:
    """Of the GPU in use. Raises ``EngineError`` where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        from sfavivit.engines.cuda import current_gpu  # noqa: PLC0415 - an optional package

        return current_gpu().name
    except (ImportError, EngineError) as error:
        raise EngineError(
            f"no NVIDIA GPU to measure: PyTorch sees none ({error}); "
            "the CPU is measured by `python -m benchmarks limit`"
        ) from error


def choose(engines: Sequence[str]) -> list[Variant]:
    """Variants of these engines. Raises ``UsageError`` for one that is unknown."""
    known = list(dict.fromkeys(variant.engine for variant in gpu_engines.VARIANTS))
    if unknown := [name for name in engines if name not in known]:
        raise UsageError(f"no such engine {unknown[0]!r}; choose of {', '.join(known)}")
    return [variant for variant in gpu_engines.VARIANTS if variant.engine in engines]


def open_variants(
    variants: Sequence[Variant],
    size: str,
    model: SpatialTransformer,
    chunks: Sequence[int],
    folder: Path,
    tell: Tell,
) -> dict[Variant, Opened]:
    """Those that run, warmed up on every chunk: what is compiled or recorded by shape is."""
    frames = {chunk: noise(model.dims, chunk) for chunk in chunks}
    expected = _reference(model, frames[min(chunks)])
    opened = {}
    for variant in variants:
        try:
            run = gpu_engines.open_run(variant, size, model, chunks, folder)
            cosine = smallest_cosine(run(frames[min(chunks)]), expected)
            for chunk in chunks:
                run(frames[chunk])
        except (SfaVivitError, RuntimeError) as error:  # of PyTorch: out of memory, a compiler that fails
            tell(f"size {size}, {variant} left out: {' '.join(str(error).split()):.300}")
        else:
            opened[variant] = Opened(run, cosine)
    return opened


def sweep(
    opened: dict[Variant, Opened],
    dims: ModelDimensions,
    chunks: Sequence[int],
    rounds: int,
    ceiling: Ceiling,
    case: Case,
) -> list[Row]:
    """Every variant on every chunk in turn, ``rounds`` times."""
    calls: dict[tuple[Variant, int], list[float]] = {}
    ceilings: dict[str, list[float | None]] = {}
    for _ in range(rounds):
        for precision in dict.fromkeys(variant.precision for variant in opened):
            ceilings.setdefault(precision, []).append(ceiling(precision))
        for chunk in chunks:
            frames = noise(dims, chunk)
            for variant, (run, _) in opened.items():
                calls.setdefault((variant, chunk), []).append(call_seconds(run, frames))
    return [
        _row(variant, chunk, seconds, ceilings[variant.precision], opened[variant].cosine, dims, case)
        for (variant, chunk), seconds in calls.items()
    ]


def _row(
    variant: Variant,
    chunk: int,
    seconds: list[float],
    ceilings: list[float | None],
    cosine: float,
    dims: ModelDimensions,
    case: Case,
) -> Row:
    operations = chunk * spatial_operations(dims, last_block_for_cls=variant.engine != "torch")
    clip = LONG_FRAMES / dims.tubelet_frames / chunk
    figures = {
        "tubelets": Figure("tubelets/s", "higher", tuple(chunk / s for s in seconds)),
        "call": Figure("ms", "lower", tuple(1e3 * s for s in seconds)),
        f"{LONG_FRAMES} frames": Figure("ms", "lower", tuple(1e3 * clip * s for s in seconds)),
        "rate": Figure("TFLOP/s", "higher", tuple(operations / s / 1e12 for s in seconds)),
        "cosine": Figure("", "higher", (cosine,)),
    }
    known = [rate for rate in ceilings if rate is not None]
    if len(known) == len(seconds):
        shares = tuple(operations / s / rate for s, rate in zip(seconds, known, strict=True))
        figures["ceiling"] = Figure("TFLOP/s", "higher", tuple(rate / 1e12 for rate in known))
        figures["of the ceiling"] = Figure("share", "higher", shares)
    return Row({**variant._asdict(), "chunk tubelets": chunk, **case}, figures)


def call_seconds(run: Run, frames: Frames) -> float:
    """Of one call, the mean of as many as fill ``SAMPLE_SECONDS``."""
    count = max(1, int(SAMPLE_SECONDS / max(timed(lambda: run(frames)), 1e-6)))
    return timed(lambda: [run(frames) for _ in range(count)]) / count


def matrix_rate(precision: str) -> float | None:
    """Operations a second of ``torch.mm`` of two large matrices on the GPU."""
    if not torch.cuda.is_available():
        return None
    side = CEILING_SIDE
    a, b = (torch.randn(side, side, device="cuda", dtype=DTYPES[precision]) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    product()
    count = max(1, int(SAMPLE_SECONDS / timed(product)))

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b)
        torch.cuda.synchronize()

    return count * 2 * side**3 / timed(products)


def noise(dims: ModelDimensions, chunk: int) -> Frames:
    """uint8 [1, F, H, W, 3] of ``chunk`` tubelets."""
    shape = (1, chunk * dims.tubelet_frames, dims.image_size, dims.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smallest_cosine(features: Features, expected: Features) -> float:
    """Over the tubelets of both, float32 [1, T, D]."""
    a, b = features.astype(np.float64), expected.astype(np.float64)
    products = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(products.min())


@torch.inference_mode()
def _reference(model: SpatialTransformer, frames: Frames) -> Features:
    features: Features = model(torch.from_numpy(frames)).numpy()
    return features
