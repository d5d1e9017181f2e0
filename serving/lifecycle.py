"""Start of the gRPC service from its settings, and its orderly shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.interceptor import CallInterceptor
from serving.logs import configure, log
from serving.metrics import Metrics
from serving.models import ModelSource
from serving.security import Tokens, server_credentials
from serving.servicer import VideoRecognitionServicer
from serving.settings import Settings
from serving.tracing import Tracing
from serving.uploads import check_spool
from sfavivit.errors import UsageError
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.protocol.v1.video_recognition_pb2_grpc import add_VideoRecognitionServicer_to_server

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VideoRecognition"].full_name
LAST_MESSAGES_SECONDS = 0.5  # for responses in flight when the server stops
CANCELLED_SECONDS = 5.0  # for cancelled requests to end, far more than they need
HEALTH_NAMES = ("", SERVICE_NAME)

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    # Notice a client that vanished without closing its connection, and free its slot.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Clients may ping twice a second, also without calls, where gRPC's default is one ping in two hours. They
    # send at most one a second, in Go and Java one in 10 s. The third too early ends the connection.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 2),
    # Calls received and not yet handled. Beyond the first number gRPC drops some, beyond the second all, as
    # CANCELLED without a reason; its defaults, 1000 and 3000, are reached at 2.5 times the capacity. Each
    # call may hold 64 KiB.
    ("grpc.server.max_pending_requests", 4_000),
    ("grpc.server.max_pending_requests_hard_limit", 8_000),
)


class VideoServer:
    """gRPC server with the video service, health and reflection: ``start`` and ``stop`` it in an event loop.

    ``port``, ``metrics_port``: ports in use once started; ``metrics_port`` None: no metrics server.

    Raises:
        UsageError: settings that cannot work, or a port in use.
        RepositoryError, EngineError: the models cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        check_spool(settings.spool)
        self._settings = settings
        self._metrics = Metrics()
        self._tracing = Tracing(settings.otlp_endpoint)
        self._tokens = Tokens(settings.security.token_file) if settings.security.token_file else None
        self._credentials = server_credentials(settings.security)
        self._models = ModelSource(settings, self._tracing.outgoing)
        self.servicer = VideoRecognitionServicer(self._models, settings, self._metrics, self._tracing)
        self.port = 0
        self.metrics_port: int | None = None

    async def start(self) -> None:
        """Listen on the ports and begin to serve."""
        settings = self._settings
        # Far beyond the admission limit gRPC itself refuses calls: even a refusal by the servicer has a cost.
        max_rpcs = 2 * (settings.max_streams + settings.max_waiting) + 64
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(self._metrics, self._tokens, self._tracing, settings.idle_seconds)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=max_rpcs,
        )
        add_VideoRecognitionServicer_to_server(self.servicer, self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._bind()
        admission, gauge = self.servicer.admission, self._metrics.gauge
        gauge("active_streams", "Running requests.", lambda: admission.running)
        gauge("waiting_streams", "Requests waiting for a slot.", lambda: admission.waiting)
        gauge("queue_depth", "Engine calls waiting for a slot.", lambda: self.servicer.scheduler.waiting)
        if settings.metrics_port is not None:
            self.metrics_port = self._metrics.serve(settings.metrics_host, settings.metrics_port)
        await self._set_health(self._models.unavailable_reason)
        await self._server.start()
        self._watching = asyncio.create_task(self._watch_health())

    async def stop(self, drain_seconds: float, abort: asyncio.Event | None = None) -> None:
        """Refuse new requests, wait at most ``drain_seconds`` for the running ones, and stop.

        ``abort``: set it to stop waiting. Health stays available until the end, and a client that watches
        it does not delay the end.
        """
        self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        await self.servicer.admission.drain(drain_seconds, abort or asyncio.Event())
        await self._server.stop(LAST_MESSAGES_SECONDS)
        # Requests that were cancelled close their decoders in the pool, which must still take that work.
        await self.servicer.admission.drain(CANCELLED_SECONDS, asyncio.Event())
        await asyncio.to_thread(self.servicer.pool.shutdown)
        self._metrics.close()
        self._tracing.close()

    @property
    def device(self) -> str | None:
        """Device that computes, None while the models are not available."""
        return None if self._models.unavailable_reason else self._models.current().engine.device

    def _bind(self) -> int:
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            if self._credentials:
                return int(self._server.add_secure_port(address, self._credentials))
            return int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}: the port is in use or not allowed") from error

    async def _watch_health(self) -> None:
        before = self._models.unavailable_reason
        while True:
            await asyncio.sleep(self._settings.health_seconds)
            reason = await asyncio.to_thread(self._models.check)
            if bool(reason) != bool(before):
                log("not serving" if reason else "serving", level=logging.WARNING, reason=reason)
            await self._set_health(reason)
            before = reason

    async def _set_health(self, unavailable_reason: str | None) -> None:
        status = health_pb2.HealthCheckResponse
        for name in HEALTH_NAMES:
            await self._health.set(name, status.NOT_SERVING if unavailable_reason else status.SERVING)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal skips the draining."""
    configure()
    server = VideoServer(settings)
    loop, signalled = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    await server.start()
    log("ready", host=settings.host, port=server.port, metrics_port=server.metrics_port, device=server.device)
    await signalled.wait()
    signalled.clear()
    log("draining", seconds=settings.drain_seconds)
    await server.stop(settings.drain_seconds, abort=signalled)
    log("stopped")
