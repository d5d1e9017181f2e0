"""OpenTelemetry traces; without an endpoint nothing is traced, and nothing imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from sfavivit.extras import needs_extra
from sfavivit.inference.results import Timings
from sfavivit.protocol.messages import timings_message
from sfavivit.utils.network import direct_options

SERVICE = "sfavivit"
EXPORT_SECONDS = 2  # longest delay of the shutdown by a collector that does not answer


class Tracing:
    """Spans of gRPC calls, sent to the OTLP collector at ``endpoint`` (None: no tracing).

    Raises:
        UsageError: the OpenTelemetry packages are not installed.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._tracer: Any = None
        if endpoint is None:
            return
        with needs_extra("tracing", "tracing"):
            from opentelemetry import propagate, trace  # noqa: PLC0415
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        plaintext = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=plaintext,
            timeout=EXPORT_SECONDS,
            channel_options=cast(Any, direct_options(urlsplit(endpoint).netloc or endpoint)),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagate, self._trace = propagate, trace

    @contextmanager
    def call(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Iterator[None]:
        """Trace the block as a span of ``method``, under the span that the caller's metadata name, if any."""
        if self._tracer is None:
            yield
            return
        caller = self._propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
        with self._tracer.start_as_current_span(method.strip("/"), caller, self._trace.SpanKind.SERVER):
            yield

    def stages(self, timings: Timings, queue_seconds: float) -> None:
        """Set the nanoseconds of each stage as attributes of the current span."""
        if self._tracer is None:
            return
        message = timings_message(timings, queue_seconds)
        attributes = {f"{SERVICE}.{field.name}": value for field, value in message.ListFields()}
        self._trace.get_current_span().set_attributes(attributes)

    def outgoing(self) -> tuple[tuple[str, str], ...]:
        """Return gRPC metadata that propagate the current span, for calls to Triton."""
        if self._tracer is None:
            return ()
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier)
        return tuple(carrier.items())

    def close(self) -> None:
        """Send the remaining spans and stop."""
        if self._tracer is not None:
            self._provider.shutdown()
