"""Traces reach a real OTLP collector under the caller's, and go on to Triton; or nothing is loaded."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from serving.tracing import Tracing
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.protocol.requests import classify_requests
from tests.serving.support import address_of, encode_videos, running_service

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


def test_a_span_of_a_call_with_its_stages(repository: Path, tmp_path: Path) -> None:
    collector = Collector()
    (video,) = encode_videos(tmp_path, 1)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            collector, server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with (
            running_service(repository, otlp_endpoint=f"http://127.0.0.1:{port}") as service,
            VideoRecognitionClient(address_of(service)) as client,
        ):
            requests = classify_requests(video, Query())
            client._stub.Classify(requests, timeout=20, metadata=CALLER)
        server.stop(1).wait()
    (span,) = collector.spans
    assert span.name == "sfavivit.v1.VideoRecognition/Classify"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    (device,) = [item.value.string_value for item in span.attributes if item.key == "sfavivit.device"]
    assert device == "cpu"
    attributes = {item.key: item.value.int_value for item in span.attributes}
    for stage in ("decode", "spatial", "temporal"):
        assert (
            0 < attributes[f"sfavivit.{stage}_time_ns"] < span.end_time_unix_nano - span.start_time_unix_nano
        )


def test_the_trace_goes_on_to_triton() -> None:
    tracing = Tracing("http://127.0.0.1:1")
    unsampled = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)  # so that nothing is sent to the collector
    with tracing.call("/a/B", unsampled):
        ((key, value),) = tracing.outgoing()
    assert key == "traceparent"
    assert value.split("-")[1] == TRACE and value.split("-")[2] != PARENT


def test_without_tracing_nothing_is_imported(repository: Path) -> None:
    code = "import sys, serving.lifecycle; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert Tracing(None).outgoing() == ()
