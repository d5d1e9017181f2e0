"""A video service for tests: the real server, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.lifecycle import VideoServer
from serving.settings import Settings
from sfavivit import Recognition
from tests.conftest import random_frames
from tests.video_files import H264, encode

FASTSTART = (*H264, "-movflags", "+faststart")


@contextmanager
def running_service(repository: Path | str, **settings: Any) -> Iterator[VideoServer]:
    """A service on free ports of loopback; ``address_of`` says where."""
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
    """As a client takes it."""
    return f"127.0.0.1:{server.port}"


def encode_videos(folder: Path, count: int) -> list[Path]:
    """Videos of different lengths and content, at 25 fps."""
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


def assert_same(answer: Recognition, expected: Recognition) -> None:
    """Logits to the bit, labels by name, times to the nanosecond and confidences to the float32."""
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


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
