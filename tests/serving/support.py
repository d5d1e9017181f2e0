"""A real video service for tests, in an event loop of its own thread, and what its tests share."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.lifecycle import SERVICE_NAME, VideoServer
from serving.settings import Settings
from serving.triton import TritonServer
from sfavivit import Recognition
from sfavivit.protocol.client import VideoRecognitionClient
from tests.conftest import random_frames
from tests.video_files import H264, encode

Item = TypeVar("Item")
FASTSTART = (*H264, "-movflags", "+faststart")


@contextmanager
def running_service(repository: Path | str, **settings: Any) -> Iterator[VideoServer]:
    """Run a service on free ports of loopback; ``address_of`` returns its address."""
    server = VideoServer(Settings(str(repository), **{"port": 0, "metrics_port": 0} | settings))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="service")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(1), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def address_of(server: VideoServer) -> str:
    """Return the address of a service as a client takes it."""
    return f"127.0.0.1:{server.port}"


def health_of(address: str, service: str = SERVICE_NAME) -> int:
    """Return the gRPC health of a service at ``address``."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


def metrics_of(port: int | None) -> str:
    """Return the metrics of a service that serves them on ``port``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        return str(reply.read().decode())


def triton_executions(server: TritonServer, model: str) -> tuple[int, int]:
    """Return the requests that a model of Triton has answered, and the executions they took."""
    url = f"http://{server.address}:{server.ports.http}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=5) as answer:
        stats = json.load(answer)["model_stats"][0]
    return stats["inference_count"], stats["execution_count"]


def encode_videos(folder: Path, count: int) -> list[Path]:
    """Encode videos of different lengths and content, at 25 fps."""
    return [
        encode(
            folder / f"{seed}.mp4",
            random_frames(80 + 10 * seed, seed=seed).repeat(4, 1).repeat(4, 2),
            options=FASTSTART,
        )
        for seed in range(count)
    ]


def pieces(path: Path, size: int = 1000) -> list[bytes]:
    content = path.read_bytes()
    return [content[at : at + size] for at in range(0, len(content), size)]


async def arriving(items: Sequence[Item]) -> AsyncIterator[Item]:
    """Yield ``items`` as a client's messages or chunks."""
    for item in items:
        yield item


def assert_same(answer: Recognition, expected: Recognition) -> None:
    """Compare logits to the bit, labels by name, times to the nanosecond, confidences as float32."""
    assert (answer.frames_used, answer.warning) == (expected.frames_used, expected.warning)
    assert answer.duration_seconds == pytest.approx(expected.duration_seconds, abs=1e-9)
    assert list(answer.heads) == list(expected.heads)
    for head, outputs in expected.heads.items():
        assert list(answer.heads[head]) == list(outputs)
        for output, result in outputs.items():
            found = answer.heads[head][output]
            assert found.logits.tobytes() == result.logits.tobytes()
            assert [s.label for s in found.labels] == [s.label for s in result.labels]
            for name in ("labels", "timeline"):
                assert [rounded(item) for item in getattr(found, name)] == [
                    rounded(item) for item in getattr(result, name)
                ]


def rounded(item: Any) -> dict[str, Any]:
    return {key: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            for key, value in vars(item).items()}  # fmt: skip


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in _command(child)]


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):  # gone, or waiting to be reaped
        return " ".join(process.cmdline())
    return ""


def spooled(process: psutil.Process) -> list[str]:
    links = [fd.readlink() for fd in Path(f"/proc/{process.pid}/fd").iterdir() if fd.is_symlink()]
    return [str(link) for link in links if "/spool" in str(link)]


class HeldUpload:
    """Upload that pauses in the middle until it is released."""

    def __init__(self, client: VideoRecognitionClient, video: Path) -> None:
        self._release = threading.Event()
        self._pieces = (video.read_bytes()[:5000], video.read_bytes()[5000:])
        self._client = client

    def chunks(self) -> Iterator[bytes]:
        yield self._pieces[0]
        self._release.wait(20)
        yield self._pieces[1]

    def run(self) -> list[Any]:
        return list(self._client.stream(self.chunks()))

    def release(self) -> None:
        self._release.set()
