"""The TensorRT engine: runs the plans that ``python -m export tensorrt`` built for this kind of GPU.

Not run on a GPU yet: written after the documentation of TensorRT 10 and 11; a test compares the names with
NVIDIA's bindings. Where there is a GPU, the tests marked ``gpu`` run it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tensorrt as trt

from sfavivit.engines import cuda
from sfavivit.engines.device import Device
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import (
    FEATURES,
    SPATIAL_MODEL,
    Repository,
    logits_tensor,
    plan_file,
    temporal_model,
)
from sfavivit.types import Array, Features, Frames, Logits
from sfavivit.utils.text import one_line

# Input shapes kept ready; a further one replaces the least recently used. A service sees one shape of chunks,
# and as many of windows as there are chunks in one.
MAX_SHAPES = 16

Shape = tuple[int, ...]


class TensorRtEngine:
    """Runs ``model.plan`` of the spatial half and of every head. See ``engines.base.Engine``.

    ``threads`` is for engines on CPUs.

    Raises:
        EngineError: a plan is missing, or is for another GPU or TensorRT version.
        UsageError: the CPU as device.
    """

    def __init__(
        self, repository: Repository, *, threads: int | None = None, device: Device = "auto"
    ) -> None:
        if device == "cpu":
            raise UsageError("engine 'tensorrt' runs on NVIDIA GPUs only; it cannot use device 'cpu'")
        self._heads = repository.manifest.heads
        gpu = cuda.current_gpu()
        self.device = f"cuda:{gpu.ordinal}"
        versions = {SPATIAL_MODEL: repository.manifest.spatial.version}
        versions |= {temporal_model(head): entry.version for head, entry in self._heads.items()}
        # All are checked before the first is loaded.
        files = {model: usable_plan(repository, model, version, gpu) for model, version in versions.items()}
        self._models = {model: TensorRtModel(file.read_bytes(), str(file)) for model, file in files.items()}

    def spatial(self, frames: Frames) -> Features:
        features: Features = self._models[SPATIAL_MODEL].run(frames)[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._models[temporal_model(head)].run(features)
        return {output: logits[logits_tensor(output)] for output in self._heads[head].outputs}


def usable_plan(repository: Repository, model: str, version: int, gpu: cuda.Gpu) -> Path:
    """Return the plan file of a model for ``gpu`` and this TensorRT; it is not opened.

    Raises:
        EngineError: there is none, or it is for another GPU or TensorRT.
    """
    name = plan_file(model, version)
    plan = repository.manifest.plans.get(name)
    hint = f"build it on this machine, from a checkout: `python -m export tensorrt {repository.path}`"
    if plan is None or name not in repository.manifest.files:
        raise EngineError(f"{repository.path} has no TensorRT plan {name}; {hint}")
    built = (plan.gpu, plan.compute_capability, plan.tensorrt)
    here = (gpu.name, gpu.compute_capability, str(trt.__version__))
    if built != here:
        raise EngineError(
            f"{repository.path / name} is for {_describe(*built)}, and here is {_describe(*here)}; {hint}"
        )
    return repository.path / name


def _describe(gpu: str, compute_capability: str, version: str) -> str:
    return f"{gpu} (compute capability {compute_capability}) with TensorRT {version}"


class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT has no annotations
    """Keeps TensorRT's last error for the exception that will follow, instead of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self.last_error = "no reason given"

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.last_error = one_line(msg)

    def require(self, value: Any, failure: str) -> Any:
        """Return ``value``, the result of a call.

        Raises:
            EngineError: it is ``False`` or ``None``: the call failed.
        """
        if value is None or value is False:
            raise EngineError(f"TensorRT {failure}: {self.last_error}")
        return value


class TensorRtModel:
    """One plan with one input. Safe to call from several threads; calls run one after the other.

    Raises:
        EngineError: the plan does not load, no profile takes a shape, or a run fails.
    """

    def __init__(self, plan: bytes, name: str) -> None:
        self._name, self._log, self._lock = name, Log(), Lock()
        self._runtime = trt.Runtime(self._log)
        self._engine = self._log.require(self._runtime.deserialize_cuda_engine(plan), f"cannot load {name}")
        self._input = next(n for n in _tensor_names(self._engine) if _is_input(self._engine, n))
        self._stream = cuda.Stream()
        # All contexts share it: they run one after the other.
        self._scratch = cuda.DeviceMemory(self._engine.device_memory_size_v2)
        self._ready: OrderedDict[Shape, _ReadyShape] = OrderedDict()

    def run(self, values: Array) -> dict[str, Array]:
        """Return all outputs by name for the input ``values``."""
        with self._lock:
            shape = tuple(values.shape)
            if shape not in self._ready:
                self._make_ready(shape)
            self._ready.move_to_end(shape)
            return self._ready[shape].run(values)

    def _make_ready(self, shape: Shape) -> None:
        ranges = [
            self._engine.get_tensor_profile_shape(self._input, index)
            for index in range(self._engine.num_optimization_profiles)
        ]
        profile = first_profile(ranges, shape)
        if profile is None:
            raise EngineError(
                f"{self._name} takes {self._input} up to {list(ranges[-1][2])}, not {list(shape)}; "
                "send smaller chunks, or build the plan with a larger --large-chunk"
            )
        if len(self._ready) == MAX_SHAPES:
            self._ready.popitem(last=False)
        context = self._log.require(
            self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED),
            "cannot make an execution context",
        )
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        selected = context.set_optimization_profile_async(profile, int(self._stream.handle))
        self._log.require(selected, f"cannot select profile {profile}")
        self._log.require(context.set_input_shape(self._input, shape), f"refuses the shape {list(shape)}")
        self._ready[shape] = _ReadyShape(self._engine, context, self._stream, self._log)


def first_profile(ranges: Sequence[tuple[Shape, Shape, Shape]], shape: Shape) -> int | None:
    """Return the first profile, given each one's min, opt and max shape, that takes ``shape``."""
    for index, (smallest, _, largest) in enumerate(ranges):
        if len(smallest) == len(shape) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        ):
            return index
    return None


class _ReadyShape:
    """One input shape: its context, its buffers, and its run (with the copies) as a CUDA graph."""

    def __init__(self, engine: Any, context: Any, stream: cuda.Stream, log: Log) -> None:
        self._context, self._stream, self._log = context, stream, log
        self._inputs: dict[str, cuda.Buffer] = {}
        self._outputs: dict[str, cuda.Buffer] = {}
        for name in _tensor_names(engine):
            dtype = trt.nptype(engine.get_tensor_dtype(name))
            buffer = cuda.Buffer(tuple(context.get_tensor_shape(name)), dtype)
            (self._inputs if _is_input(engine, name) else self._outputs)[name] = buffer
            log.require(context.set_tensor_address(name, buffer.address), f"refuses a buffer for {name}")
        # The first run after a change of shape does work that cannot be captured.
        self._enqueue()
        stream.synchronize()
        self._graph = cuda.Graph(stream, self._enqueue)

    def _enqueue(self) -> None:
        for buffer in self._inputs.values():
            buffer.upload(self._stream)
        self._log.require(self._context.execute_async_v3(int(self._stream.handle)), "failed in a run")
        for buffer in self._outputs.values():
            buffer.download(self._stream)

    def run(self, values: Array) -> dict[str, Array]:
        (target,) = self._inputs.values()
        np.copyto(target.array, values, casting="no")
        self._graph.launch()
        self._stream.synchronize()
        return {name: buffer.array.copy() for name, buffer in self._outputs.items()}


def _tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _is_input(engine: Any, name: str) -> bool:
    return bool(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
