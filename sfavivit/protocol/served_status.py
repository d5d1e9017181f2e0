"""Status that the service sent, where asyncio's gRPC hides it.

A service may end a call while its client is still sending. The client's next write then fails, and
``grpc.aio`` (up to 1.85 at least: https://github.com/grpc/grpc/issues/36066) reports "Internal error from
Core" in place of the status that the service sent, before or after that has come.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

LATE_SECONDS = 1.0
"""Longest wait for the service's status after a failed write."""
_CORE = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class ServedStatus:
    """Keeps the status that the service sends for ``call``."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._served: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)  # called once for each status

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the error that the service sent if ``error`` hides it, else ``error``."""
        if not _of_core(error):
            return error
        try:
            return await asyncio.wait_for(self._served, LATE_SECONDS)
        except TimeoutError:
            return error

    def _note(self, _: object) -> None:
        present = self._present()
        try:
            present.send(None)  # ends at once: the call has a status, so nothing is awaited
        except StopIteration as done:
            hides = done.value.code() is grpc.StatusCode.OK or _of_core(done.value)
            if not hides and not self._served.done():
                self._served.set_result(done.value)
        finally:
            present.close()

    async def _present(self) -> grpc.aio.AioRpcError:
        call = self._call
        return grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )


def _of_core(error: grpc.aio.AioRpcError) -> bool:
    return (error.code(), error.details()) == _CORE
