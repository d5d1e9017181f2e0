"""Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from sfavivit.errors import UsageError
from sfavivit.inference.results import Timings

STAGE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Metrics of one service, in a registry of its own, so that several services can share a process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._server: WSGIServer | None = None
        self.requests = Counter(
            "sfavivit_requests", "Completed requests.", ("method", "code"), registry=registry
        )
        self.stage_seconds = Histogram(
            "sfavivit_stage_seconds",
            "Seconds of a request in each stage, by the device that computed.",
            ("stage", "device"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.received_bytes = Counter(
            "sfavivit_received_bytes", "Bytes of video, frames and features received.", registry=registry
        )

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge whose ``value`` is called at every scrape."""
        Gauge(f"sfavivit_{name}", documentation, registry=self._registry).set_function(value)

    def stages(self, timings: Timings, queue_seconds: float) -> None:
        """Observe the seconds of one request in each stage."""
        stages = {
            "decode": timings.decode_seconds,
            "queue": queue_seconds,
            "spatial": timings.spatial_seconds,
            "temporal": timings.temporal_seconds,
        }
        for stage, seconds in stages.items():
            self.stage_seconds.labels(stage, timings.device).observe(seconds)

    def serve(self, host: str, port: int) -> int:
        """Serve the metrics over HTTP in a thread; return the port, which 0 leaves to the system.

        Raises:
            UsageError: the port is in use.
        """
        try:
            self._server, _ = start_http_server(port, host, self._registry)
        except OSError as error:
            raise UsageError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
