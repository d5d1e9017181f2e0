"""gRPC interceptor around every call: authentication, errors to status codes, metrics, log and trace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from serving.logs import log
from serving.metrics import Metrics
from serving.security import Tokens
from serving.tracing import Tracing
from sfavivit.errors import DeadlineError, InvalidInputError, SfaVivitError
from sfavivit.protocol.status import status_of

HEALTH = "/grpc.health.v1.Health/"  # open to all: probes have no token, and learn nothing but the health


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps the handlers of all services on the port, except health.

    ``idle_seconds``: longest wait for a client that does not read its answers.
    """

    def __init__(
        self, metrics: Metrics, tokens: Tokens | None, tracing: Tracing, idle_seconds: float
    ) -> None:
        self._metrics = metrics
        self._tokens = tokens
        self._tracing = tracing
        self._idle_seconds = idle_seconds

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler of a call, wrapped."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            return handler
        method = details.method
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streaming else "unary" for streaming in sides)
        behaviour = getattr(handler, kind)

        def decoded(message: bytes) -> Any:
            try:
                return handler.request_deserializer(message)
            except DecodeError:
                raise InvalidInputError(
                    f"a message cannot be decoded ({len(message)} bytes); send those of the service's .proto"
                ) from None

        def received(request: Any) -> Any:
            """Decode a single request here, where errors become statuses; gRPC does so too early."""
            return request if handler.request_streaming else decoded(request)

        async def stream(request: Any, context: Any) -> None:
            async with (
                self._call(method, context),
                aclosing(behaviour(received(request), context)) as responses,
            ):
                async for response in responses:
                    await self._write(context, response)

        async def unary(request: Any, context: Any) -> Any:
            async with self._call(method, context):
                return await behaviour(received(request), context)

        make_handler = getattr(grpc, f"{kind}_rpc_method_handler")
        return make_handler(
            stream if handler.response_streaming else unary,
            decoded if handler.request_streaming else None,
            handler.response_serializer,
        )

    async def _write(self, context: Any, response: Any) -> None:
        """Send a response, which waits while the connection is full of those that are not read yet."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                await context.write(response)
        except TimeoutError:
            raise DeadlineError(
                f"no answer was read for {self._idle_seconds:g} s; read on, or cancel the call"
            ) from None
        except grpc.aio.InternalError:  # the client has gone
            raise asyncio.CancelledError from None

    async def _abort(self, context: Any, code: Any, message: str, trailers: Any = ()) -> None:
        """End a call with an error; a client that reads nothing does not read the status either."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                await context.abort(code, message, trailers)
        except TimeoutError:
            raise asyncio.CancelledError from None

    @asynccontextmanager
    async def _call(self, method: str, context: Any) -> AsyncIterator[None]:
        start = time.perf_counter()
        # Read now: once a call is cancelled gRPC may have freed what these look at (seen as a crash).
        peer, time_allowed = context.peer(), context.time_remaining()
        code, kind = grpc.StatusCode.OK, None
        try:
            with self._tracing.call(method, context.invocation_metadata()):
                if self._tokens:
                    self._tokens.check(context.invocation_metadata())
                yield
        except SfaVivitError as error:
            code, message, trailers = status_of(error)
            kind = error.kind
            await self._abort(context, code, message, trailers)
        except asyncio.CancelledError:
            late = time_allowed is not None and time.perf_counter() - start >= time_allowed
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except (grpc.aio.AbortError, GeneratorExit):
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            log("internal error", level=logging.ERROR, error=True, method=method)
            await self._abort(context, code, "internal error of the service; its log says more")
        finally:
            name = method.rpartition("/")[2]
            self._metrics.requests.labels(name, code.name).inc()
            seconds = round(time.perf_counter() - start, 6)
            log("request", method=name, code=code.name, kind=kind, seconds=seconds, peer=peer)
