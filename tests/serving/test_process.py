"""The service as a process: its command line, signals, health, reflection, metrics, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.__main__ import app
from serving.lifecycle import SERVICE_NAME
from sfavivit.errors import EngineUnavailableError, NotAVideoError, ServiceError
from sfavivit.protocol.answers import Query, ServedRecognition
from sfavivit.protocol.client import AsyncVideoRecognitionClient, VideoRecognitionClient
from sfavivit.protocol.requests import classify_requests
from tests.commands import run_here
from tests.serving.support import (
    HeldUpload,
    arriving,
    encode_videos,
    health_of,
    metrics_of,
    pieces,
    spooled,
)
from tests.waiting import eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """``python -m serving`` on free ports, ready."""

    def __init__(self, *options: str | Path) -> None:
        command = [sys.executable, "-m", "serving", "--port", "0", "--metrics-port", "0", *map(str, options)]
        self.popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        ready = self.log_until("ready")
        self.address = f"127.0.0.1:{ready['port']}"
        self.metrics_port = ready["metrics_port"]

    def log_until(self, message: str) -> dict[str, Any]:
        assert self.popen.stderr
        for line in self.popen.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == message:
                return self.lines[-1]
        raise AssertionError(f"no {message!r}: {self.lines}")

    def metrics(self) -> str:
        return metrics_of(self.metrics_port)


@contextmanager
def service_process(*options: str | Path) -> Iterator[Process]:
    process = Process(*options)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()
        assert process.popen.stderr
        process.popen.stderr.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_videos(tmp_path_factory.mktemp("video"), 1)[0]


@pytest.fixture(scope="module")
def process(repository: Path) -> Iterator[Process]:
    with service_process("--repository", repository) as process:
        yield process


def watch_health(address: str, seen: list[int]) -> None:
    """Add what a watcher is told to ``seen`` until the service ends."""
    with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.RpcError):
        stub = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=20):
            seen.append(int(answer.status))


def test_health_overall_and_of_the_service(process: Process) -> None:
    assert health_of(process.address, "") == health_of(process.address) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health_of(process.address, "nobody")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_the_service(process: Process) -> None:
    """List the services, then get the file that describes one, as grpcurl does."""
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME),
    ]
    with grpc.insecure_channel(process.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=5)
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE_NAME, "grpc.health.v1.Health"} <= names
    (file, *_) = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    methods = {
        method.name: (method.client_streaming, method.server_streaming) for method in file.service[0].method
    }
    assert methods == {
        "ListHeads": (False, False),
        "Classify": (True, False),
        "StreamingClassify": (True, True),
        "ExtractFeatures": (True, True),
        "ScoreFeatures": (True, False),
    }


def test_metrics_and_logs(process: Process, video: Path) -> None:
    with VideoRecognitionClient(process.address, timeout_seconds=30) as client:
        client.classify(video)
        with pytest.raises(NotAVideoError):
            client.classify(b"no video" * 1000)
    # A client has its answer before the service has counted it.
    failed_once = 'sfavivit_requests_total{code="INVALID_ARGUMENT",method="Classify"} 1.0'
    assert eventually(lambda: failed_once in process.metrics())
    metrics = process.metrics()
    assert 'sfavivit_requests_total{code="OK",method="Classify"} 1.0' in metrics
    for stage in ("decode", "queue", "spatial", "temporal"):
        assert f'sfavivit_stage_seconds_count{{device="cpu",stage="{stage}"}} 2.0' in metrics
    received = float(metrics.partition("\nsfavivit_received_bytes_total ")[2].split()[0])
    assert received == video.stat().st_size + 8000
    assert "sfavivit_active_streams 0.0" in metrics and "sfavivit_queue_depth 0.0" in metrics
    while (entry := process.log_until("request"))["method"] != "Classify":
        pass
    failed = process.log_until("request")
    assert entry["code"] == "OK"
    assert (failed["method"], failed["code"], failed["kind"]) == (
        "Classify",
        "INVALID_ARGUMENT",
        "not_a_video",
    )


def test_streams_that_were_answered_do_not_count_as_cancelled(process: Process, video: Path) -> None:
    """Even when the caller takes the summary and goes: 20 of each client."""

    async def stream(client: AsyncVideoRecognitionClient) -> None:
        async for answer in client.stream(arriving(pieces(video))):
            if isinstance(answer, ServedRecognition):
                return

    async def main() -> None:
        async with AsyncVideoRecognitionClient(process.address, timeout_seconds=30) as client:
            for _ in range(20):
                await stream(client)

    asyncio.run(main())
    with VideoRecognitionClient(process.address, timeout_seconds=30) as client:
        for _ in range(20):
            next(answer for answer in client.stream(pieces(video)) if isinstance(answer, ServedRecognition))
    counted = 'sfavivit_requests_total{{code="{}",method="StreamingClassify"}}'
    assert eventually(lambda: counted.format("OK") + " 40.0" in process.metrics())
    assert counted.format("CANCELLED") not in process.metrics()


def test_sigterm_drains_and_exits_zero(repository: Path, video: Path) -> None:
    """Running requests are finished, and then the process ends."""
    with (
        service_process("--repository", repository) as process,
        VideoRecognitionClient(process.address, timeout_seconds=30) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        held = HeldUpload(client, video)
        answers = pool.submit(held.run)
        seen: list[int] = []
        watching = pool.submit(watch_health, process.address, seen)
        assert eventually(lambda: seen == [SERVING])
        assert eventually(lambda: "sfavivit_active_streams 1.0" in process.metrics())
        process.popen.send_signal(signal.SIGTERM)
        process.log_until("draining")
        assert eventually(lambda: health_of(process.address) == NOT_SERVING)
        with pytest.raises(ServiceError, match="about to end"):
            client.classify(video)
        held.release()
        assert answers.result(10)[-1].frames_used == 40
        assert process.popen.wait(10) == 0
        watching.result(10)
        assert seen == [SERVING, NOT_SERVING]


@pytest.mark.parametrize(("drain_seconds", "signals"), [("0.5", 1), ("60", 2)])
def test_draining_is_bounded(repository: Path, video: Path, drain_seconds: str, signals: int) -> None:
    """By its option, and by a second signal."""
    with (
        service_process("--repository", repository, "--drain-seconds", drain_seconds) as process,
        VideoRecognitionClient(process.address, timeout_seconds=30) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        held = HeldUpload(client, video)
        answers = pool.submit(held.run)
        assert eventually(lambda: "sfavivit_active_streams 1.0" in process.metrics())
        started = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        process.log_until("draining")
        if signals > 1:
            process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 0
        assert time.monotonic() - started < 5
        held.release()
        assert isinstance(answers.exception(10), ServiceError)
        assert process.popen.stderr
        assert "internal error" not in process.popen.stderr.read()


def test_kill_9_leaves_no_upload_and_no_decoder(repository: Path, video: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with (
        service_process("--repository", repository, "--spool", spool) as process,
        VideoRecognitionClient(process.address, timeout_seconds=30) as client,
    ):
        released = threading.Event()

        def upload() -> Iterator[Any]:
            config, *rest = classify_requests(video, Query())
            yield config
            yield rest[0]
            released.wait(10)

        call = client._stub.Classify.future(upload())
        stream = client.stream(pieces(video))
        next(stream)
        service = psutil.Process(process.popen.pid)
        assert eventually(lambda: bool(spooled(service)))
        children = service.children(recursive=True)
        process.popen.kill()
        process.popen.wait()
        assert not psutil.wait_procs(children, timeout=5)[1]
        assert list(spool.iterdir()) == []
        released.set()
        call.cancel()


@pytest.mark.parametrize("option", ["--repository", "--engine"])
def test_triton_is_taken_as_repository_or_engine(option: str) -> None:
    with (
        service_process(option, "triton://127.0.0.1:1") as process,
        VideoRecognitionClient(process.address) as client,
        pytest.raises(EngineUnavailableError, match=r"Triton at 127\.0\.0\.1:1 is unavailable"),
    ):
        client.list_heads()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repository", "/nowhere"], "/nowhere is not a model repository"),
        (["--host", "0.0.0.0"], "plaintext on 0.0.0.0 could be read by others"),
        (["--tls-cert", "/nowhere"], "--tls-cert and --tls-key belong together"),
        (["--token-file", "/nowhere"], "token file /nowhere cannot be read"),
        (["--engine", "triton"], "give Triton as --repository triton://HOST:PORT"),
        (
            ["--repository", "triton://127.0.0.1:1", "--engine", "torch"],
            "triton://127.0.0.1:1 is served by Triton; the engine cannot be 'torch'",
        ),
        (["--engine-timeout-seconds", "0"], "engine_timeout_seconds must be more than 0"),
        (["--repository", "triton://127.0.0.1:1", "--device", "cpu"], "leave out the device 'cpu'"),
        (["--engine", "abacus"], "unknown engine 'abacus'"),
        (["--max-streams", "0"], "max_streams must be more than 0"),
        (["--port", "99999"], "port must be at most 65535, got 99999"),
        (["--metrics-port", "99999"], "metrics_port must be at most 65535, got 99999"),
        (["--metrics-port", "-2"], "metrics_port must be at least 0, got -2"),
        (["--threads", "1025"], "threads must be from 1 to 1024, got 1025"),
        (["--spool", "/nowhere"], "no upload can be stored in --spool /nowhere"),
        (["--spool", "/dev/null"], "no upload can be stored in --spool /dev/null"),
        (["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "/dev/null holds no PEM certificate"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    repository: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr("serving.lifecycle.configure", lambda: None)  # the log of this process stays
    words = ["serve", "--port", "0", "--metrics-port", "-1", *options]
    done = run_here(app, *words, SFAVIVIT_REPOSITORY=str(repository))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(process: Process, repository: Path) -> None:
    port = process.address.partition(":")[2]
    for option in (["--port", port], ["--port", "0", "--metrics-port", str(process.metrics_port)]):
        done = subprocess.run(
            [sys.executable, "-m", "serving", "serve", "--repository", repository, *option],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: cannot")]
        assert len(errors) == 1 and "Traceback" not in done.stderr


def test_warnings_of_the_library_are_lines_of_the_log() -> None:
    code = "from serving.logs import configure; import logging; configure(); "
    code += "logging.getLogger('sfavivit').warning('the GPU is not used')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "the GPU is not used"
