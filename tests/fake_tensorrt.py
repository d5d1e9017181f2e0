"""Stand-ins for TensorRT and CUDA: host memory for the GPU's, ONNX Runtime for the kernels.

What a stream is given runs when it is synchronised, what is captured runs when the graph is launched, and
memory holds rubbish until something is copied into it, so forgetting any of these gives wrong answers.
Classes, methods and parameters are named as in the real bindings; a test compares them.
"""

from __future__ import annotations

import enum
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import export
import sfavivit.engines
from tests.fake_cuda import FakeCuda

VERSION = "11.4.0.106"
SCRATCH_BYTES = 4096


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 0})
BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "USER_MANAGED"]
)
DataType = enum.Enum("DataType", ["FLOAT", "UINT8"])
DTYPES = {"tensor(float)": DataType.FLOAT, "tensor(uint8)": DataType.UINT8}


def nptype(trt_type: Any) -> Any:
    return {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}[trt_type]


class INetworkDefinition:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.model.graph.input[index].name)


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self.network = network
        self.reasons: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self.reasons)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self.reasons[index])

    def parse_from_file(self, model: str) -> bool:
        try:
            self.network.model = onnx.load(model)  # with the weights beside it
        except Exception as error:
            self.reasons.append(str(error))
        uint8 = [n.op_type for n in self.network.model.graph.node if "FRAMES" in n.input]
        if uint8 not in ([], ["Cast"]):
            self.reasons.append(f"uint8 is for network inputs, not for\n{uint8}")
        return not self.reasons


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(low <= best <= high for low, best, high in zip(min, opt, max, strict=True))
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> Any:
        return memoryview(self.content)


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.flags = {BuilderFlag.TF32}
        self.cache: ITimingCache | None = None

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache or b"Fake H1:")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return ignore_mismatch or cache.content.startswith(b"Fake H1:")

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        assert not config.flags, "TF32 would not reproduce PyTorch"
        if config.cache:
            config.cache.content += b" built"
        shapes = [profile.shapes for profile in config.profiles]
        return memoryview(pickle.dumps((network.model.SerializeToString(), shapes)))


class ICudaEngine:
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, session: Any, profiles: list[Any], fake: FakeTensorRt, logger: ILogger) -> None:
        self.session, self.profiles, self.fake, self.logger = session, profiles, fake, logger
        self.inputs = {tensor.name: tensor for tensor in session.get_inputs()}
        self.tensors = self.inputs | {tensor.name: tensor for tensor in session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DTYPES[self.tensors[name].type]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return list(self.profiles[profile_index][name])

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> Any:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.cuda = engine, engine.fake.cuda
        self.profile, self.warm, self.scratch = 0, False, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= SCRATCH_BYTES
        self.scratch = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        self.engine.fake.profiles_used.add(profile_index)
        return stream_handle in self.cuda.streams

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.engine.profiles[self.profile][name]
        zeros = np.zeros(shape, nptype(self.engine.get_tensor_dtype(name)))
        outputs = self.engine.session.run(None, {name: zeros})
        names = [output.name for output in self.engine.session.get_outputs()]
        self.shapes = {name: shape} | {n: v.shape for n, v in zip(names, outputs, strict=True)}
        return all(low <= n <= high for low, n, high in zip(smallest, shape, largest, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory in self.cuda.memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self.cuda.streams[stream_handle]
        if self.engine.fake.failing or (stream.captured is not None and not self.warm):
            self.engine.logger.log(ILogger.Severity.ERROR, "the kernel\nfell over")
            return False
        self.warm = True
        stream.put(self._run)
        return True

    def _array(self, name: str) -> Any:
        dtype = nptype(self.engine.get_tensor_dtype(name))
        return (
            np.ctypeslib.as_array(self.cuda.memory[self.addresses[name]])
            .view(dtype)
            .reshape(self.shapes[name])
        )

    def _run(self) -> None:
        assert self.scratch in self.cuda.memory
        feed = {name: self._array(name) for name in self.engine.inputs}
        outputs = self.engine.session.get_outputs()
        for output, value in zip(outputs, self.engine.session.run(None, feed), strict=True):
            self._array(output.name)[...] = value + self.engine.fake.error


class FakeTensorRt:
    """What the tests turn and read. ``error`` is added to every output; ``failing`` runs fail."""

    def __init__(self) -> None:
        self.cuda = FakeCuda()
        self.error = 0.0
        self.failing = False
        self.profiles_used: set[int] = set()

    def module(self) -> ModuleType:
        fake = self

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                try:
                    model, profiles = pickle.loads(serialized_engine)
                except Exception:
                    self.logger.log(ILogger.Severity.ERROR, "magic tag\ndoes not match")
                    return None
                options = ort.SessionOptions()
                options.intra_op_num_threads = 1  # models this small only lose by threads
                session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
                return ICudaEngine(session, profiles, fake, self.logger)

        module = ModuleType("tensorrt")
        names: tuple[Any, ...] = (ILogger, INetworkDefinition, OnnxParser, IOptimizationProfile, ITimingCache)
        names += (IBuilderConfig, Builder, ICudaEngine, IExecutionContext, Runtime, DataType, nptype)
        names += (
            NetworkDefinitionCreationFlag,
            BuilderFlag,
            TensorIOMode,
            ExecutionContextAllocationStrategy,
        )
        vars(module).update({value.__name__: value for value in names}, __version__=VERSION)
        return module


USERS = ("sfavivit.engines.cuda", "sfavivit.engines.tensorrt", "export.plan_builder")


@contextmanager
def installed() -> Iterator[FakeTensorRt]:
    """The stand-ins in the place of the real packages."""
    fake = FakeTensorRt()
    with pytest.MonkeyPatch.context() as patch:
        bindings = ModuleType("cuda.bindings")
        vars(bindings)["runtime"] = fake.cuda
        patch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        patch.setitem(sys.modules, "cuda.bindings", bindings)
        patch.setitem(sys.modules, "tensorrt", fake.module())
        _forget()
        try:
            yield fake
        finally:
            _forget()


def _forget() -> None:
    """The modules that hold on to the packages are imported again when next needed."""
    for name in USERS:
        sys.modules.pop(name, None)
        parent, _, attribute = name.rpartition(".")
        vars(export if parent == "export" else sfavivit.engines).pop(attribute, None)
