"""Clients in an environment that names an HTTP proxy: never for this machine, and named where it fails."""

from __future__ import annotations

import asyncio

import pytest

from serving.lifecycle import VideoServer
from sfavivit.errors import ServiceError
from sfavivit.protocol.client import AsyncVideoRecognitionClient, VideoRecognitionClient
from sfavivit.utils.network import direct_options, proxy_note
from tests.fake_proxy import PROXY_VARIABLES, fake_proxy


@pytest.mark.parametrize("variable", PROXY_VARIABLES)
def test_this_machine_is_asked_directly(server: VideoServer, variable: str) -> None:
    async def asked(address: str) -> int:
        async with AsyncVideoRecognitionClient(address, timeout_seconds=10) as client:
            return len((await client.list_heads()).heads)

    with fake_proxy(variable) as proxy:
        for host in ("127.0.0.1", "localhost", "dns:///localhost", "ipv4:127.0.0.1", "0.0.0.0"):
            address = f"{host}:{server.port}"
            with VideoRecognitionClient(address, timeout_seconds=10) as client:
                assert len(client.list_heads().heads) == 2
            assert asyncio.run(asked(address)) == 2
    assert proxy.requests == []


@pytest.mark.parametrize("variable", PROXY_VARIABLES)
def test_a_proxy_that_fails_is_named(variable: str) -> None:
    with fake_proxy(variable) as proxy:
        with (
            VideoRecognitionClient("service.invalid:50051", timeout_seconds=5) as client,
            pytest.raises(ServiceError, match="service.invalid:50051") as caught,
        ):
            client.list_heads()
        assert f"(through the proxy {proxy.address} of {variable};" in str(caught.value)
        assert "secret" not in str(caught.value)
    assert set(proxy.requests) == {"CONNECT service.invalid:50051 HTTP/1.1"}


def test_an_exception_from_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_proxy("https_proxy") as proxy:
        monkeypatch.setenv("no_proxy", "elsewhere, .INVALID")
        with (
            VideoRecognitionClient("service.invalid:50051", timeout_seconds=1) as client,
            pytest.raises(ServiceError) as caught,
        ):
            client.list_heads()
    assert proxy.requests == [] and "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "address", "note"),
    [
        ({}, "h:1", False),
        ({"http_proxy": "http://p:3128"}, "h:1", True),
        ({"http_proxy": "http://p:3128"}, "[::1]:1", False),
        ({"http_proxy": "http://p:3128"}, "[::2]:1", True),
        ({"http_proxy": "http://p:3128"}, "unix:///run/s", False),
        ({"http_proxy": "http://p:3128", "grpc_proxy": ""}, "h:1", False),
        ({"http_proxy": "https://p:3128"}, "h:1", False),
        ({"http_proxy": "http://[p:3128"}, "h:1", False),
        ({"http_proxy": "http://p:3128", "no_proxy": "10.0.0.0/8"}, "10.1.2.3:1", False),
        ({"http_proxy": "http://p:3128", "no_proxy": "10.0.0.0/8"}, "11.1.2.3:1", True),
        ({"http_proxy": "http://p:3128", "no_proxy": "h", "no_grpc_proxy": "g"}, "h:1", True),
    ],
)
def test_when_grpc_takes_a_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], address: str, note: bool
) -> None:
    for name in (*PROXY_VARIABLES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bool(proxy_note(address)) == note
    assert bool(direct_options(address)) == (address == "[::1]:1")
