"""The ONNX Runtime engine: on CUDA where ``onnxruntime-gpu`` finds a GPU, else on the CPU.

CUDA has not been run on a GPU yet, only its fallback to the CPU; tests marked ``gpu`` run it where there is
one.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sfavivit.config import ModelDimensions
from sfavivit.errors import EngineError
from sfavivit.repository.manifest import FEATURES, FRAMES, Precision, Repository, logits_tensor
from sfavivit.types import Features, Frames, Logits
from sfavivit.utils.cpus import available_cpus
from sfavivit.utils.text import one_line

MODEL_FILE = "model.onnx"
MAX_SMALL_OPERATIONS = 50_000_000  # for a tubelet, in a model that one thread runs
FATAL_ONLY = 4  # ONNX Runtime's own log: its errors reach the user as EngineError
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# TF32 keeps 10 bits of a float32's mantissa: fp32 answers would differ from the other engines' in the third
# digit. Fewer bits are had by exporting fp16.
CUDA_OPTIONS = {"use_tf32": "0"}


class OnnxRuntimeEngine:
    """Runs ``model.onnx`` of the spatial half and of every head. See ``engines.base.Engine``."""

    def __init__(self, repository: Repository, *, threads: int | None = None) -> None:
        manifest = repository.manifest
        threads = threads or default_threads(manifest.dimensions)
        provider = best_provider(manifest.spatial.precision)
        self._spatial = OnnxModel(repository.spatial_file(MODEL_FILE), threads, provider)
        self._temporal = {
            head: OnnxModel(repository.temporal_file(head, MODEL_FILE), threads, self.provider)
            for head in manifest.heads
        }
        self._heads = manifest.heads

    @property
    def provider(self) -> str:
        """Provider in use for the spatial model: ``CPUExecutionProvider`` or ``CUDAExecutionProvider``."""
        return self._spatial.provider

    def spatial(self, frames: Frames) -> Features:
        features: Features = self._spatial.run({FRAMES: frames})[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._temporal[head].run({FEATURES: features})
        return {output: logits[logits_tensor(output)] for output in self._heads[head].outputs}


def default_threads(dims: ModelDimensions) -> int:
    """Return 1 for a small model, whose calls then run beside one another and the decoder; else all CPUs."""
    linear = dims.spatial.layers * (4 * dims.hidden_size + 2 * dims.spatial.mlp_dim) * dims.hidden_size
    operations = 2 * linear * (1 + dims.patches)
    # A chunk of the demo model takes 1.9 CPU ms with one thread, 2.2 with two that wait for each other.
    return 1 if operations < MAX_SMALL_OPERATIONS else available_cpus()


def best_provider(precision: Precision) -> str:
    """Return CUDA if this ONNX Runtime has it, except for int8, whose MatMulInteger is a CPU kernel."""
    return CUDA if CUDA in ort.get_available_providers() and precision != "int8" else CPU


class OnnxModel:
    """One ``model.onnx``, on the CPU with ``threads`` threads (default: all this process may use).

    With ``provider`` CUDA, ONNX Runtime falls back to the CPU where there is no GPU or a CUDA library is
    missing, and says why on stderr; the attribute ``provider`` is the one in use.

    Raises:
        EngineError: the file does not load, or a run fails.
    """

    def __init__(self, file: Path, threads: int | None = None, provider: str = CPU) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.log_severity_level = FATAL_ONLY
        # Threads that spin between calls take the cores that decoding and gRPC need: without spinning the
        # demo model's service gives 7300 frames a second instead of 3400 to 5100.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [CPU]
        if provider == CUDA:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                ort.preload_dlls()  # CUDA and cuDNN from their pip packages
            providers.insert(0, (CUDA, CUDA_OPTIONS))
        try:
            self._session: Any = ort.InferenceSession(file, options, providers=providers)
        except Exception as error:  # the runtime's own exceptions share no narrower base
            raise EngineError(f"ONNX Runtime cannot load {file}: {one_line(error)}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.provider: str = self._session.get_providers()[0]

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Return all outputs by name."""
        try:
            bound = self.provider == CUDA
            values = self._run_bound(feed) if bound else self._session.run(self._outputs, feed)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in a run: {one_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def _run_bound(self, feed: dict[str, Any]) -> list[Any]:
        """Run with inputs and outputs bound: each is copied once, in the stream of the run."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        values: list[Any] = binding.copy_outputs_to_cpu()
        return values
