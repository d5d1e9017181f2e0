"""OpenVINO as an engine for our ONNX files, at fp32 or as NNCF quantises them to int8.

A peer, not an engine of this system: on a CPU with AVX2 alone it is slower, at fp32 and more so at int8
(``python -m benchmarks peers``).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np

from sfavivit.engines.base import Features, Frames, Logits
from sfavivit.engines.onnxruntime import MODEL_FILE
from sfavivit.errors import EngineError
from sfavivit.repository import Repository, logits_tensor

CALIBRATION_CALLS = 4
CALIBRATION_SEED = 1
"""Seed of the calibration's pixels: noise like the benchmark's, but not the same."""


def has_openvino() -> bool:
    """Return whether OpenVINO and its quantiser are installed."""
    return find_spec("openvino") is not None and find_spec("nncf") is not None


class OpenVinoEngine:
    """Engine (``sfavivit.engines.base.Engine``) whose spatial calls must all have ``chunk_tubelets``.

    OpenVINO's documentation recommends static shapes and the latency hint for speed; int8 is its quantiser's
    default for transformers: static scales with SmoothQuant. The temporal half stays fp32, as ours does.

    Raises:
        EngineError: the packages are not installed.
    """

    def __init__(self, repository: Repository, precision: str, threads: int, chunk_tubelets: int) -> None:
        if not has_openvino():
            raise EngineError("peer 'openvino' lacks its packages: pip install 'sfavivit[peers]'")
        import openvino  # noqa: PLC0415 - optional

        manifest, core = repository.manifest, openvino.Core()
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _precision_hint(core, precision),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        dims = manifest.dimensions
        shape = [1, chunk_tubelets * dims.tubelet_frames, dims.image_size, dims.image_size, 3]
        spatial = core.read_model(repository.spatial_file(MODEL_FILE))
        spatial.reshape(shape)
        if precision == "int8":
            spatial = _quantized(spatial, shape)
        self._spatial: Any = core.compile_model(spatial, "CPU", hints)
        self._temporal: dict[str, Any] = {
            head: core.compile_model(repository.temporal_file(head, MODEL_FILE), "CPU", hints)
            for head in manifest.heads
        }
        self._outputs = {head: list(entry.outputs) for head, entry in manifest.heads.items()}

    def spatial(self, frames: Frames) -> Features:
        features: Features = self._spatial(frames)[0]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._temporal[head](features)
        return {output: logits[logits_tensor(output)] for output in self._outputs[head]}


def _precision_hint(core: Any, precision: str) -> str:
    """Return the type of layers that are not int8; by default OpenVINO uses bf16 on CPUs that have it."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if precision == "int8" and has_bf16 else "f32"


def _quantized(model: Any, shape: list[int]) -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF reports every use to its maker
    import nncf  # noqa: PLC0415 - optional

    noise = np.random.default_rng(CALIBRATION_SEED)
    calls = [noise.integers(0, 256, shape, np.uint8) for _ in range(CALIBRATION_CALLS)]
    return nncf.quantize(
        model, nncf.Dataset(calls), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_CALLS
    )
