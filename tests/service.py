"""A video service for tests: the real server, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.lifecycle import VideoServer
from serving.settings import Settings


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
