"""Keepalive pings: an idle client may send them, a flood is refused, and our own client sends few."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest

from serving.lifecycle import VideoServer
from sfavivit.errors import ServiceError
from sfavivit.protocol import client as client_module
from sfavivit.protocol.client import VideoRecognitionClient
from tests.serving.support import address_of

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACKNOWLEDGEMENT = bytes.fromhex("000000040000000000"), bytes.fromhex("000000040100000000")
PING_HEAD = bytes.fromhex("000008060000000000")


def received(connection: socket.socket) -> bytes:
    """Everything until the other end closes."""
    connection.settimeout(10)
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_an_idle_client_may_ping(server: VideoServer) -> None:
    options = (
        ("grpc.keepalive_time_ms", 1000),  # gRPC for Python does not ping more often
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(address_of(server), options) as channel:
        grpc.channel_ready_future(channel).result(5)
        channel.subscribe(states.append)
        time.sleep(4.5)  # the fourth ping is the one that gRPC's defaults refuse
        assert set(states) == {grpc.ChannelConnectivity.READY}


def test_a_flood_of_pings_is_refused(server: VideoServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(PREFACE + SETTINGS + ACKNOWLEDGEMENT + 10 * (PING_HEAD + bytes(8)))
        assert received(connection).endswith(b"too_many_pings")


def test_the_client_pings_during_a_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        client_module, "KEEPALIVE", (("grpc.keepalive_time_ms", 50), *client_module.KEEPALIVE[1:])
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        VideoRecognitionClient(f"127.0.0.1:{listener.getsockname()[1]}") as client,
    ):
        grpc.channel_ready_future(client._channel)  # connects
        connection, _ = listener.accept()
        with connection, ThreadPoolExecutor(1) as pool:
            connection.sendall(SETTINGS + ACKNOWLEDGEMENT)
            connection.settimeout(0.5)
            assert PING_HEAD not in until_silent(connection)
            call = pool.submit(client.list_heads)
            assert PING_HEAD in until_silent(connection)
            connection.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ServiceError):
                call.result(10)


def until_silent(connection: socket.socket) -> bytes:
    """Everything until the other end sends nothing for the connection's timeout."""
    content = b""
    with suppress(TimeoutError):
        while piece := connection.recv(1 << 16):
            content += piece
    return content
