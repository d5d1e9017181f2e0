"""CUDA devices, streams, buffers and graphs for an engine, on NVIDIA's own ``cuda-bindings``.

PyTorch would bring gigabytes for these few calls, and its allocator does not let a captured graph keep its
addresses.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from sfavivit.errors import EngineError


class Gpu(NamedTuple):
    """The GPU model that a compiled engine depends on. ``compute_capability`` as in ``"9.0"``.

    ``ordinal``: number of the GPU among those that this process sees.
    """

    name: str
    compute_capability: str
    ordinal: int = 0


def current_gpu() -> Gpu:
    """Return the GPU that CUDA uses in this thread: the first that ``CUDA_VISIBLE_DEVICES`` shows.

    Raises:
        EngineError: no GPU, or a driver too old for this CUDA.
    """
    ordinal = check(cudart.cudaGetDevice())
    properties = check(cudart.cudaGetDeviceProperties(ordinal))
    name = properties.name
    text = name.decode() if isinstance(name, bytes) else str(name)
    return Gpu(text.rstrip("\0"), f"{properties.major}.{properties.minor}", ordinal)


def check(result: tuple[Any, ...]) -> Any:
    """Return the value of a CUDA call, which returns ``(error, value...)``.

    Raises:
        EngineError: the call failed.
    """
    error, *values = result
    if error != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(error)
        raise EngineError(
            f"CUDA: {text.decode()} ({error.name}); is there an NVIDIA GPU with a fitting driver?"
        )
    return values[0] if values else None


class Stream:
    """A CUDA stream; other libraries take ``int(handle)``."""

    def __init__(self) -> None:
        self.handle = check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        weakref.finalize(self, cudart.cudaStreamDestroy, self.handle)

    def synchronize(self) -> None:
        check(cudart.cudaStreamSynchronize(self.handle))


class DeviceMemory:
    """Bytes on the GPU, freed with the object."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(check(cudart.cudaMalloc(max(nbytes, 1))))
        weakref.finalize(self, cudart.cudaFree, self.address)


class Buffer:
    """A tensor on the GPU and its page-locked twin ``array`` on the host, both at fixed addresses.

    From page-locked memory the GPU copies by itself, so a copy can be part of a captured graph.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._device = DeviceMemory(self._nbytes)
        self._host = int(check(cudart.cudaHostAlloc(max(self._nbytes, 1), cudart.cudaHostAllocDefault)))
        weakref.finalize(self, cudart.cudaFreeHost, self._host)
        content = (ctypes.c_uint8 * self._nbytes).from_address(self._host)
        self.array: NDArray[Any] = np.ctypeslib.as_array(content).view(dtype).reshape(shape)

    @property
    def address(self) -> int:
        """Address on the GPU."""
        return self._device.address

    def upload(self, stream: Stream) -> None:
        self._copy(self.address, self._host, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def download(self, stream: Stream) -> None:
        self._copy(self._host, self.address, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def _copy(self, target: int, source: int, kind: Any, stream: Stream) -> None:
        check(cudart.cudaMemcpyAsync(target, source, self._nbytes, kind, stream.handle))


class Graph:
    """The work that ``enqueue`` puts on ``stream``, captured once and launched as a whole."""

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        self._stream = stream
        # Thread-local: other threads may use their streams meanwhile.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(stream.handle, mode))
        try:
            enqueue()
        except BaseException:
            cudart.cudaStreamEndCapture(stream.handle)  # its own error would only follow from the first
            raise
        graph = check(cudart.cudaStreamEndCapture(stream.handle))
        try:
            self._executable = check(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            cudart.cudaGraphDestroy(graph)
        weakref.finalize(self, cudart.cudaGraphExecDestroy, self._executable)

    def launch(self) -> None:
        check(cudart.cudaGraphLaunch(self._executable, self._stream.handle))
