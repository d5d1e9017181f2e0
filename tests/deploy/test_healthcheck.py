"""The health probe of the service's image, against real servers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.lifecycle import SERVICE_NAME

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


def test_the_probe_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with health_server(STATUS.SERVING) as port:
        pass
    assert probe_main()([f"127.0.0.1:{port}"]) == 1
    assert re.fullmatch(r"127.0.0.1:\d+ does not answer: UNAVAILABLE: [^\n]+\n", capsys.readouterr().err)
    assert probe_main()(["127.0.0.1:1", "--certificate=/no/such/file"]) == 1
    assert capsys.readouterr().err.endswith("cannot be read: No such file or directory\n")


@pytest.mark.parametrize("self_signed", [True, False])
def test_the_probe_trusts_the_certificate_of_the_service(tmp_path: Path, self_signed: bool) -> None:
    certificate, key = make_certificate("video-recognition.sfavivit.svc", self_signed=self_signed)
    file = tmp_path / "tls.crt"
    file.write_bytes(certificate)
    other = tmp_path / "other.crt"
    other.write_bytes(make_certificate("video-recognition.sfavivit.svc", self_signed=True)[0])
    name = "--name=video-recognition.sfavivit.svc"
    with health_server(STATUS.SERVING, grpc.ssl_server_credentials([(key, certificate)])) as port:
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={file}", name]) == 0
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={file}", "--name=another"]) == 1
        assert probe_main()([f"127.0.0.1:{port}", f"--certificate={other}", name]) == 1


def make_certificate(name: str, *, self_signed: bool) -> tuple[bytes, bytes]:
    """PEM certificate of ``name`` and its key; signed by itself, or by an authority not kept."""
    key, authority = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key if self_signed else authority, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM), private
