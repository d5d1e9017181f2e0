"""The health probe of the service's image, against real servers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.lifecycle import SERVICE_NAME
from tests.fake_proxy import fake_proxy
from tests.serving.certificates import Authority

PROBE = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


def probe_main() -> Any:
    spec = importlib.util.spec_from_file_location("healthcheck", PROBE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@contextmanager
def health_server(status: Any, credentials: Any = None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    for name in ("", SERVICE_NAME):
        servicer.set(name, status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(1).wait()


STATUS = health_pb2.HealthCheckResponse


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (STATUS.SERVING, [], 0),
        (STATUS.NOT_SERVING, [], 1),
        (STATUS.NOT_SERVING, ["--alive"], 0),
        (STATUS.SERVING, ["--service=no.such.Service"], 1),
    ],
)
def test_the_probe_tells_serving_from_not(status: Any, words: list[str], code: int) -> None:
    with health_server(status) as port:
        assert probe_main()([f"127.0.0.1:{port}", f"--service={SERVICE_NAME}", *words]) == code


def test_the_probe_takes_no_proxy() -> None:
    with health_server(STATUS.SERVING) as port, fake_proxy("https_proxy") as proxy:
        assert probe_main()([f"127.0.0.1:{port}"]) == 0
        assert proxy.requests == []


def test_the_probe_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with health_server(STATUS.SERVING) as port:
        pass
    assert probe_main()([f"127.0.0.1:{port}"]) == 1
    assert re.fullmatch(r"127.0.0.1:\d+ does not answer: UNAVAILABLE: [^\n]+\n", capsys.readouterr().err)
    assert probe_main()(["127.0.0.1:1", "--certificate=/no/such/file"]) == 1
    assert capsys.readouterr().err.endswith("cannot be read: No such file or directory\n")


@pytest.mark.parametrize("self_signed", [True, False])
def test_the_probe_trusts_the_certificate_of_the_service(tmp_path: Path, self_signed: bool) -> None:
    authority, other = (
        Authority(tmp_path, name, "video-recognition.sfavivit.svc") for name in ("authority", "other")
    )
    files = (authority.certificate_file, authority.key_file) if self_signed else authority.issue("service")
    certificate, key = (file.read_bytes() for file in files)
    name = "--name=video-recognition.sfavivit.svc"
    with health_server(STATUS.SERVING, grpc.ssl_server_credentials([(key, certificate)])) as port:
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={files[0]}", name]) == 0
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={files[0]}", "--name=another"]) == 1
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={other.certificate_file}", name]) == 1
