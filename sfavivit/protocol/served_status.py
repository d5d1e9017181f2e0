"""How a service ended a call, whatever asyncio's gRPC makes of it.

A service may end a call while its client is still sending: it is full, or knows enough. The write that then
fails makes ``grpc.aio`` (up to 1.85 at least: https://github.com/grpc/grpc/issues/36066) put "Internal error
from Core" in the place of the status that the service sent, before or after that has come. Of refused
streams it spoilt half.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

LATE_SECONDS = 1.0
"""The service's status may still be on its way when a write fails."""
_CORE = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class ServedStatus:
    """Watches a ``call`` for the status that the service sends."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._served: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)  # called once for each status

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the service said was wrong, where ``error`` hides it."""
        if not _of_core(error):
            return error
        try:
            return await asyncio.wait_for(self._served, LATE_SECONDS)
        except TimeoutError:
            return error

    def _note(self, _: object) -> None:
        present = self._present()
        try:
            present.send(None)  # of a call that has a status, nothing has to be waited for
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
