"""The ONNX Runtime engine (CPU)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime as ort

from sfavivit.engines.base import Features, Frames, Logits
from sfavivit.errors import EngineError
from sfavivit.repository import FEATURES, FRAMES, Repository, logits_tensor

MODEL_FILE = "model.onnx"
FATAL_ONLY = 4  # ONNX Runtime's own log: its errors reach the user as EngineError


class OnnxRuntimeEngine:
    """Runs ``model.onnx`` of the spatial half and of every head. See ``engines.base.Engine``."""

    def __init__(self, repository: Repository, *, threads: int | None = None) -> None:
        heads = repository.manifest.heads
        self._spatial = OnnxModel(repository.spatial_file(MODEL_FILE), threads)
        self._temporal = {
            head: OnnxModel(repository.temporal_file(head, MODEL_FILE), threads) for head in heads
        }
        self._tensors = {
            head: {output: logits_tensor(output) for output in entry.outputs} for head, entry in heads.items()
        }

    def spatial(self, frames: Frames) -> Features:
        features: Features = self._spatial.run({FRAMES: frames})[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._temporal[head].run({FEATURES: features})
        return {output: logits[tensor] for output, tensor in self._tensors[head].items()}


class OnnxModel:
    """One ``model.onnx`` on the CPU, with ``threads`` threads (default: all this process may use).

    Raises:
        EngineError: the file does not load, or a run fails.
    """

    def __init__(self, file: Path, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = FATAL_ONLY
        try:
            self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions share no narrower base
            raise EngineError(f"ONNX Runtime cannot load {file}: {_one_line(error)}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """All outputs by name."""
        try:
            values = self._session.run(self._outputs, feed)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in a run: {_one_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
