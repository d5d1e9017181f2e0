"""OpenTelemetry, if it is asked for; otherwise nothing, and nothing imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sfavivit.errors import UsageError
from sfavivit.inference.results import Timings
from sfavivit.protocol.messages import timings_message

SERVICE = "sfavivit"
EXPORT_SECONDS = 2  # how long a collector that is away may hold up the end of the service


class Tracing:
    """Spans of calls, sent to an OTLP collector at ``endpoint`` (None: no tracing).

    Raises:
        UsageError: the packages are not installed.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._tracer: Any = None
        if endpoint is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise UsageError(
                f"tracing needs a package that is missing ({error.name}): pip install 'sfavivit[tracing]'"
            ) from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        plaintext = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=plaintext, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    @contextmanager
    def call(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Iterator[None]:
        """A span of a call, under the caller's if it told."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.propagate import extract  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        caller = extract({key: value for key, value in metadata if isinstance(value, str)})
        with self._tracer.start_as_current_span(method.strip("/"), caller, SpanKind.SERVER):
            yield

    def stages(self, timings: Timings, queue_seconds: float) -> None:
        """Note on the current span how long each stage took, in nanoseconds."""
        if self._tracer is None:
            return
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        message = timings_message(timings, queue_seconds)
        attributes = {f"{SERVICE}.{field.name}": value for field, value in message.ListFields()}
        get_current_span().set_attributes(attributes)

    def outgoing(self) -> tuple[tuple[str, str], ...]:
        """gRPC metadata that carry the current span on, for calls to Triton."""
        if self._tracer is None:
            return ()
        from opentelemetry.propagate import inject  # noqa: PLC0415

        carrier: dict[str, str] = {}
        inject(carrier)
        return tuple(carrier.items())

    def close(self) -> None:
        """Send what has not been sent."""
        if self._tracer is not None:
            self._provider.shutdown()
