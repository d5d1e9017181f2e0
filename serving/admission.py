"""How many requests run, how many wait, and that the next one is told at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sfavivit.errors import ServiceBusyError, ServiceError

DRAIN_POLL_SECONDS = 0.02


class Admission:
    """``running`` requests at most at once, ``waiting`` more in line. For one event loop."""

    def __init__(self, running: int, waiting: int) -> None:
        self._most_running = running
        self._most_waiting = waiting
        self._line: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the places.

        Raises:
            ServiceBusyError: all are taken, and the line is full.
            ServiceError: the service is about to end.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and wait until those there are have ended, for ``seconds`` at most."""
        self._closed = True
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _enter(self) -> None:
        if self._closed:
            raise ServiceError("the service is about to end; ask another one, or later")
        if self.running < self._most_running:
            self.running += 1
            return
        if len(self._line) >= self._most_waiting:
            raise ServiceBusyError(
                f"{self.running} requests are running and {self.waiting} waiting, which is all this service "
                "takes; try again later"
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._leave()  # the place came in the same moment
            elif place in self._line:  # unless one that left has just passed it over
                self._line.remove(place)
            raise

    def _leave(self) -> None:
        """The place goes to the first in line, if there is one."""
        while self._line:
            if not (place := self._line.popleft()).done():
                place.set_result(None)
                return
        self.running -= 1
