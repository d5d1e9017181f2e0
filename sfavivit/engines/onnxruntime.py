"""The ONNX Runtime engine, on the CPU or on CUDA.

CUDA has not been run on a GPU yet, only its refusals where there is none; tests marked ``gpu`` run it where
there is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from pathlib import Path
from typing import Any

import numpy as np

from sfavivit.config import ModelDimensions
from sfavivit.engines.device import Device, Processor, driver_problem, start_on
from sfavivit.engines.onnxruntime_package import FATAL_ONLY, import_onnxruntime
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import FEATURES, FRAMES, Precision, Repository, logits_tensor
from sfavivit.types import Features, Frames, Logits
from sfavivit.utils.cpus import available_cpus
from sfavivit.utils.text import one_line

MODEL_FILE = "model.onnx"
MAX_SMALL_OPERATIONS = 50_000_000  # for a tubelet, in a model that one thread runs
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# TF32 keeps 10 bits of a float32's mantissa: fp32 answers would differ from the other engines' in the third
# digit. Fewer bits are had by exporting fp16.
CUDA_OPTIONS = {"use_tf32": "0"}


class OnnxRuntimeEngine:
    """Runs ``model.onnx`` of the spatial half and of every head. See ``engines.base.Engine``.

    Raises:
        EngineError: a file does not load, ``device`` cannot be used, or there is not one package of ONNX
            Runtime.
        UsageError: CUDA for an int8 model.
    """

    def __init__(
        self, repository: Repository, *, threads: int | None = None, device: Device = "auto"
    ) -> None:
        manifest = repository.manifest
        self._repository = repository
        self._threads = threads or default_threads(manifest.dimensions)
        self._heads = manifest.heads
        device = usable_device(device, manifest.spatial.precision)
        start_on(device, self._start, gpu_package=has_cuda())

    def _start(self, processor: Processor) -> None:
        """Load all models on a processor; on CUDA, run each once, since some GPUs refuse only then."""
        spatial = self._repository.spatial_file(MODEL_FILE)
        self._spatial = OnnxModel(spatial, self._threads, processor)
        self._temporal = {
            head: OnnxModel(self._repository.temporal_file(head, MODEL_FILE), self._threads, processor)
            for head in self._heads
        }
        if processor == "cuda":
            dims = self._repository.manifest.dimensions
            shape = (1, dims.tubelet_frames, dims.image_size, dims.image_size, 3)
            features = self.spatial(np.zeros(shape, np.uint8))
            for head in self._heads:
                self.temporal(head, features)

    @property
    def device(self) -> str:
        return self._spatial.device

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


def usable_device(device: Device, precision: Precision) -> Device:
    """Return ``device``, and the CPU in place of ``auto`` for int8, whose MatMulInteger is a CPU kernel.

    Raises:
        UsageError: CUDA for an int8 model.
    """
    if precision != "int8":
        return device
    if device == "cuda":
        raise UsageError("int8 models run on the CPU, not on cuda; export with --precision fp16 for GPUs")
    return "cpu"


def has_cuda() -> bool:
    """Return whether the installed ONNX Runtime is one with CUDA. Raises as ``import_onnxruntime``."""
    return CUDA in import_onnxruntime().get_available_providers()


def require_cuda() -> None:
    """Raise ``EngineError`` if the installed ONNX Runtime is one without CUDA."""
    if not has_cuda():
        raise EngineError(
            "ONNX Runtime cannot use cuda: the installed package is the one for CPUs; replace it: "
            f"pip uninstall -y {import_onnxruntime().package_name} && pip install 'sfavivit[gpu]'"
        )


class OnnxModel:
    """One ``model.onnx``, on CUDA, or on the CPU with ``threads`` threads (default: all it may use).

    ``device``: the device in use, ``cpu`` or ``cuda:N``.

    Raises:
        EngineError: the file does not load, CUDA cannot be used, or a run fails.
    """

    def __init__(self, file: Path, threads: int | None = None, processor: Processor = "cpu") -> None:
        options = import_onnxruntime().SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.log_severity_level = FATAL_ONLY
        # Threads that spin between calls take the cores that decoding and gRPC need: without spinning the
        # demo model's service gives 7300 frames a second instead of 3400 to 5100.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _open_session(file, options, processor)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.device = "cpu"
        if processor == "cuda":
            self.device = f"cuda:{self._session.get_provider_options()[CUDA]['device_id']}"

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Return all outputs by name."""
        try:
            bound = self.device != "cpu"
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


def _open_session(file: Path, options: Any, processor: Processor) -> Any:
    """Return a session that runs on ``processor``.

    Raises:
        EngineError: the file does not load, or CUDA cannot be used.
    """
    ort = import_onnxruntime()
    providers: list[Any] = [CPU]
    if processor == "cuda":
        require_cuda()
        with contextlib.redirect_stdout(io.StringIO()):  # what it prints, _cuda_problem says better
            ort.preload_dlls()  # CUDA and cuDNN from their pip packages
        providers.insert(0, (CUDA, CUDA_OPTIONS))
    try:
        # Without a fallback of its own: it would print, and go on with the CPU.
        session = ort.InferenceSession(file, options, providers=providers, enable_fallback=False)
    except Exception as error:  # the runtime's own exceptions share no narrower base
        on_cuda = " on cuda" if processor == "cuda" else ""
        raise EngineError(f"ONNX Runtime cannot load {file}{on_cuda}: {one_line(error)}") from error
    if processor == "cuda" and session.get_providers()[0] != CUDA:
        raise EngineError(f"ONNX Runtime cannot use cuda: {_cuda_problem(ort)}")
    return session


def _cuda_problem(ort: Any) -> str:
    """Return why a session fell back to the CPU, which ONNX Runtime tells only its log."""
    if problem := driver_problem():
        return problem
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"{one_line(error)}; pip install 'sfavivit[gpu]' brings CUDA and cuDNN"
    return "no reason given; is the driver new enough for this package's CUDA?"
