"""From settings to a service on a port, and down again in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.boundary import Boundary
from serving.logs import configure, log
from serving.metrics import Metrics, MetricsServer
from serving.models import ModelSource
from serving.security import Tokens, server_credentials
from serving.service import VideoRecognitionService
from serving.settings import Settings
from serving.tracing import Tracing
from sfavivit.errors import UsageError
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.protocol.v1.video_recognition_pb2_grpc import add_VideoRecognitionServicer_to_server

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VideoRecognition"].full_name
LAST_MESSAGES_SECONDS = 0.5  # for answers that are on their way
HEALTH_NAMES = ("", SERVICE_NAME)

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    # A connection whose client is gone without a word is noticed, and its slot is free again.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Calls that came and were not looked at yet; beyond the first number gRPC drops some (all, beyond the
    # second) as CANCELLED without a reason. Its own numbers, 1000 and 3000, are reached at 2.5 times the
    # capacity. Each call may hold 64 KiB.
    ("grpc.server.max_pending_requests", 4_000),
    ("grpc.server.max_pending_requests_hard_limit", 8_000),
)


class VideoServer:
    """The service of ``settings``: make it, ``start`` it in an event loop, ``stop`` it.

    Raises:
        UsageError: settings that cannot work, a port that is taken.
        RepositoryError, EngineError: the models cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._tracing = Tracing(settings.otlp_endpoint)
        self._tokens = Tokens(settings.security.token_file) if settings.security.token_file else None
        self._credentials = server_credentials(settings.security)
        self._models = ModelSource(settings, self._tracing.outgoing)
        self.service = VideoRecognitionService(self._models, settings, self._metrics, self._tracing)
        self.port = 0
        self.metrics_port: int | None = None

    async def start(self) -> None:
        """Listen; ``port`` and ``metrics_port`` are then known."""
        service, settings = self.service, self._settings
        boundary = Boundary(self._metrics, self._tokens, self._tracing)
        # Beyond the line of those that wait gRPC itself refuses: even a refusal of ours costs something.
        most = 2 * (settings.max_streams + settings.max_waiting) + 64
        self._server = grpc.aio.server(
            interceptors=[boundary], options=_OPTIONS, maximum_concurrent_rpcs=most
        )
        add_VideoRecognitionServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._bind()
        self._observe()
        await self._set_health(self._models.why_not)
        await self._server.start()
        self._watching = asyncio.create_task(self._watch_health())

    async def stop(self, drain_seconds: float) -> None:
        """Take no more requests, give those that run ``drain_seconds``, and end.

        Health can be asked for until the end, and a client that watches it does not delay it.
        """
        self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        await self.service.admission.drain(drain_seconds)
        await self._server.stop(LAST_MESSAGES_SECONDS)
        await asyncio.to_thread(self.service.pool.shutdown)
        if self._metrics_server:
            self._metrics_server.close()
        self._tracing.close()

    def _bind(self) -> int:
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            if self._credentials:
                return int(self._server.add_secure_port(address, self._credentials))
            return int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}: the port is taken or not allowed") from error

    def _observe(self) -> None:
        service, gauge = self.service, self._metrics.gauge
        gauge("active_streams", "Requests that run.", lambda: service.admission.running)
        gauge("waiting_streams", "Requests that wait for a place.", lambda: service.admission.waiting)
        gauge("queue_depth", "Engine calls that wait for their turn.", lambda: service.gate.waiting)
        self._metrics_server: MetricsServer | None = None
        if self._settings.metrics_port is not None:
            self._metrics_server = MetricsServer(
                self._metrics, self._settings.metrics_host, self._settings.metrics_port
            )
            self.metrics_port = self._metrics_server.port

    async def _watch_health(self) -> None:
        before = self._models.why_not
        while True:
            await asyncio.sleep(self._settings.health_seconds)
            why_not = await asyncio.to_thread(self._models.check)
            if bool(why_not) != bool(before):
                log("not serving" if why_not else "serving", level=logging.WARNING, reason=why_not)
            await self._set_health(why_not)
            before = why_not

    async def _set_health(self, why_not: str | None) -> None:
        status = health_pb2.HealthCheckResponse
        for name in HEALTH_NAMES:
            await self._health.set(name, status.NOT_SERVING if why_not else status.SERVING)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then drain and return. A second signal ends at once."""
    configure()
    server = VideoServer(settings)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await server.start()
    log("ready", host=settings.host, port=server.port, metrics_port=server.metrics_port)
    await asked.wait()
    log("draining", seconds=settings.drain_seconds)
    asked.clear()
    stopping = asyncio.create_task(server.stop(settings.drain_seconds))
    again = asyncio.create_task(asked.wait())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        await server.stop(0)
    again.cancel()
    log("stopped")
