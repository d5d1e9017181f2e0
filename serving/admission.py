"""Admission control: how many requests run and wait, and which are refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sfavivit.errors import ServiceBusyError, ServiceError

DRAIN_POLL_SECONDS = 0.02


class Admission:
    """Bounded FIFO queue of requests: ``max_running`` at once, ``max_waiting`` more in the queue.

    For one event loop. ``running`` and ``waiting``: requests now.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_requests = max_running + max_waiting
        self._slots = asyncio.Semaphore(max_running)
        self._closed = False
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it inside the block.

        Raises:
            ServiceBusyError: all slots are in use and the queue is full.
            ServiceError: the service is shutting down.
        """
        if self._closed:
            raise ServiceError("the service is about to end; ask another one, or later")
        if self.running + self.waiting >= self._max_requests:
            raise ServiceBusyError(
                f"{self.running} requests are running and {self.waiting} waiting, which is all this service "
                "takes; try again later"
            )
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()

    async def drain(self, seconds: float, abort: asyncio.Event) -> None:
        """Refuse new requests and wait until those admitted have ended, at most ``seconds``.

        ``abort``: set it to stop waiting.
        """
        self._closed = True
        deadline = time.monotonic() + seconds
        while self.running + self.waiting and time.monotonic() < deadline and not abort.is_set():
            await asyncio.sleep(DRAIN_POLL_SECONDS)
