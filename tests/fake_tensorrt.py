"""A TensorRT for machines without one: its plans are ONNX models, which ONNX Runtime runs.

It takes the place of our three functions that need a GPU (build a plan, run a plan, name the GPU), not of
NVIDIA's API, whose names ``tests/engines/test_bindings.py`` checks; tests marked ``gpu`` run that.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest

import export
import sfavivit.engines
from export.plan_profiles import Profile
from sfavivit.errors import EngineError

VERSION, GPU = "11.4.0.106", "Fake H1"
USERS = ("sfavivit.engines.tensorrt", "export.plan_builder")  # of the module tensorrt


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])


class FakeTensorRt:
    """Switches and records of the tests. ``error`` is added to every output; ``failing`` runs fail."""

    def __init__(self) -> None:
        self.error = 0.0
        self.failing = False
        self.has_gpu = True
        self.chunks: set[int] = set()
        """Second dimension of every input that was run."""

    def current_gpu(self) -> Any:
        if not self.has_gpu:
            raise EngineError("CUDA: no CUDA-capable device is detected (cudaErrorNoDevice)")
        return sys.modules["sfavivit.engines.cuda"].Gpu(GPU, "9.0")

    def build_plan(self, file: Path, profiles: Sequence[Profile], timing_cache: Path | None = None) -> bytes:
        assert len(profiles) == 2
        return onnx.load(file).SerializeToString()

    def model(self, plan: bytes, name: str) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # models this small only lose by threads
        session = ort.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]

        def run(values: Any) -> dict[str, Any]:
            if self.failing:
                raise EngineError(f"TensorRT failed in a run of {name}")
            self.chunks.add(values.shape[1])
            results: Any = session.run(None, {session.get_inputs()[0].name: values})
            return {name: value + self.error for name, value in zip(outputs, results, strict=True)}

        return SimpleNamespace(run=run)


@contextmanager
def installed() -> Iterator[FakeTensorRt]:
    """Use the fake; the module ``tensorrt`` has only what importing its users takes."""
    pytest.importorskip("cuda.bindings.runtime")
    fake, module = FakeTensorRt(), ModuleType("tensorrt")
    vars(module).update(__version__=VERSION, ILogger=ILogger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", module)
        _forget()
        engine, builder = map(import_module, USERS)
        patch.setattr(engine, "TensorRtModel", fake.model)
        patch.setattr(engine.cuda, "current_gpu", fake.current_gpu)
        patch.setattr(builder, "build_plan", fake.build_plan)
        try:
            yield fake
        finally:
            _forget()


def _forget() -> None:
    """Let the users of ``tensorrt`` be imported again when next needed."""
    for name in USERS:
        sys.modules.pop(name, None)
        parent, _, attribute = name.rpartition(".")
        vars(export if parent == "export" else sfavivit.engines).pop(attribute, None)
