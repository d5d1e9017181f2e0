"""A stand-in for ``cuda.bindings.runtime``: host memory for the GPU's. See ``fake_tensorrt``."""

# ruff: noqa: N802, N803, N815, N816

from __future__ import annotations

import ctypes
import enum
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Work = Callable[[], None]

cudaError_t = enum.Enum("cudaError_t", {"cudaSuccess": 0, "cudaErrorNoDevice": 100})
OK = cudaError_t.cudaSuccess


class FakeStream:
    def __init__(self) -> None:
        self.pending: list[Work] = []
        self.captured: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def put(self, work: Work) -> None:
        (self.pending if self.captured is None else self.captured).append(work)


class FakeCuda:
    """The functions of ``cuda.bindings.runtime`` that are used."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = enum.Enum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs = self.captures = 0
        self.launches = 0
        self.has_gpu = True

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return OK, error.name.encode()

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return (OK, 0) if self.has_gpu else (cudaError_t.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return OK, SimpleNamespace(name=b"Fake H1\0\0", major=9, minor=0)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = FakeStream()
        self.streams[int(stream)] = stream
        return OK, stream

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[Any, ...]:
        del self.streams[int(stream)]
        return (OK,)

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[Any, ...]:
        assert stream.captured is None, "synchronised while capturing"
        while stream.pending:
            stream.pending.pop(0)()
        return (OK,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        content = (ctypes.c_uint8 * size)(*[0xCD] * min(size, 64))
        self.memory[ctypes.addressof(content)] = content
        return OK, ctypes.addressof(content)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self.cudaMalloc(size)

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        del self.memory[devPtr]
        return (OK,)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self.cudaFree(ptr)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: FakeStream
    ) -> tuple[Any, ...]:
        assert all(ctypes.sizeof(self.memory[address]) == count for address in (dst, src))
        stream.put(lambda: void(ctypes.memmove(dst, src, count)))
        return (OK,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: Any) -> tuple[Any, ...]:
        assert not stream.pending
        stream.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[Any, ...]:
        captured, stream.captured = stream.captured, None
        return OK, captured

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        self.graphs += 1
        self.captures += 1
        return OK, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        graph.clear()
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: list[Work]) -> tuple[Any, ...]:
        self.graphs -= 1
        return (OK,)

    def cudaGraphLaunch(self, graphExec: list[Work], stream: FakeStream) -> tuple[Any, ...]:
        self.launches += 1
        time.sleep(0.001)  # time for another thread to spoil something
        stream.pending.extend(graphExec)
        return (OK,)


def void(_: object) -> None:
    """Drop a value."""
