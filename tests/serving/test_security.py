"""TLS, mutual TLS and tokens; plaintext stays on the machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.settings import Security, Settings
from sfavivit.errors import ServiceError, SfaVivitError, UnauthenticatedError, UsageError
from sfavivit.protocol.client import AsyncVideoRecognitionClient, Tls, VideoRecognitionClient
from tests.serving.certificates import Authority
from tests.serving.support import address_of, running_service
from tests.waiting import eventually

TOKEN, OTHER = "a-token-of-32-characters-0123456", "another-token-of-many-characters"


def heads(address: str, *, tls: Tls | None = None, token: str | None = None) -> list[str]:
    with VideoRecognitionClient(address, tls=tls, token=token, timeout_seconds=5) as client:
        return list(client.list_heads().heads)


def refusal(ask: Callable[[], object]) -> SfaVivitError:
    with pytest.raises(SfaVivitError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return caught.value


def test_tls_and_mutual_tls(repository: Path, tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    certificate, key = ours.issue("server")
    with running_service(repository, security=Security(certificate, key)) as server:
        address = f"localhost:{server.port}"
        assert heads(address, tls=Tls(ours.certificate_file)) == ["default", "long"]
        assert isinstance(refusal(lambda: heads(address, tls=Tls(foreign.certificate_file))), ServiceError)
        assert isinstance(refusal(lambda: heads(address)), ServiceError)
    with running_service(repository, security=Security(certificate, key, ours.certificate_file)) as server:
        address = f"localhost:{server.port}"
        assert heads(address, tls=Tls(ours.certificate_file, *ours.issue("client"))) == ["default", "long"]
        assert isinstance(refusal(lambda: heads(address, tls=Tls(ours.certificate_file))), ServiceError)
        stranger = Tls(ours.certificate_file, *foreign.issue("client"))
        assert isinstance(refusal(lambda: heads(address, tls=stranger)), ServiceError)


def test_tokens(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the demo\n{TOKEN}\n\n{OTHER}  # of somebody else\n")
    with running_service(repository, security=Security(token_file=file)) as server:
        address = address_of(server)
        for token in (TOKEN, OTHER):
            assert heads(address, token=token) == ["default", "long"]
        for wrong in (None, TOKEN[:-1], TOKEN + "x", "# of the demo", "x" * 5000):
            error = refusal(lambda wrong=wrong: heads(address, token=wrong))  # type: ignore[misc]
            assert isinstance(error, UnauthenticatedError), wrong
            assert TOKEN not in str(error)
        refuses_streams_and_reflection(address)
        file.write_text(f"{OTHER}\n")
        assert eventually(lambda: is_refused(address, TOKEN))
        assert heads(address, token=OTHER)
        file.write_text("short\n")  # not usable, so the tokens stay as they were
        os.utime(file, (1, 1))
        assert not eventually(lambda: is_refused(address, OTHER), 1.5)


def is_refused(address: str, token: str) -> bool:
    try:
        heads(address, token=token)
    except UnauthenticatedError:
        return True
    return False


def refuses_streams_and_reflection(address: str) -> None:
    """Without a token nothing but the health answers, whatever the kind of the call."""

    async def classify() -> None:
        async with AsyncVideoRecognitionClient(address, timeout_seconds=5) as client:
            await client.classify(b"x" * 10)

    assert isinstance(refusal(lambda: asyncio.run(classify())), UnauthenticatedError)
    with VideoRecognitionClient(address, timeout_seconds=5) as client:
        assert isinstance(refusal(lambda: list(client.stream([b"x"]))), UnauthenticatedError)
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(requests, timeout=5))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status
        assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_plaintext_on_loopback(host: str) -> None:
    assert Settings("x", host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", ""])
def test_plaintext_elsewhere_needs_saying_so(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plaintext"):
        Settings("x", host=host)
    assert Settings("x", host=host, security=Security(insecure=True))
    assert Settings("x", host=host, security=Security(tmp_path / "cert", tmp_path / "key"))


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "short\n", f"{TOKEN}\nshort\n"])
def test_token_files_that_protect_nothing_are_refused(
    repository: Path, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    with (
        pytest.raises(UsageError, match="token"),
        running_service(repository, security=Security(token_file=file)),
    ):
        pass
