"""What Prometheus may ask."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from sfavivit.errors import UsageError
from sfavivit.inference.results import Timings

STAGE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The service's own registry, so that several can live in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "sfavivit_requests", "Requests that ended.", ("method", "code"), registry=registry
        )
        self.stage_seconds = Histogram(
            "sfavivit_stage_seconds",
            "Time of a request in each stage.",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.received_bytes = Counter(
            "sfavivit_received_bytes", "Bytes of videos and frames received.", registry=registry
        )

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is scraped."""
        Gauge(f"sfavivit_{name}", documentation, registry=self.registry).set_function(value)

    def stages(self, timings: Timings, queue_seconds: float) -> None:
        """Count a request's time in each stage."""
        stages = {
            "decode": timings.decode_seconds,
            "queue": queue_seconds,
            "spatial": timings.spatial_seconds,
            "temporal": timings.temporal_seconds,
        }
        for stage, seconds in stages.items():
            self.stage_seconds.labels(stage).observe(seconds)


class MetricsServer:
    """Serves ``metrics`` over HTTP in a thread. Raises ``UsageError`` when the port is taken."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise UsageError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
