"""Keepalive pings: an idle client may send them, a flood is refused, and they find a dead other end."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.lifecycle import VideoServer
from sfavivit.errors import ServiceError
from sfavivit.protocol import client as client_module
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.utils.network import keepalive_options
from tests.serving.support import address_of

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACKNOWLEDGEMENT = bytes.fromhex("000000040000000000"), bytes.fromhex("000000040100000000")
PING = bytes.fromhex("000008060000000000") + bytes(8)


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
        connection.sendall(PREFACE + SETTINGS + ACKNOWLEDGEMENT + 10 * PING)
        assert received(connection).endswith(b"too_many_pings")


def test_a_service_that_vanishes_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and a call, and never answers again, pings neither."""
    monkeypatch.setattr(client_module, "KEEPALIVE_SECONDS", (0.1, 0.2))
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(SETTINGS)
                gone.wait(20)

        pool.submit(accept)
        try:
            with (
                VideoRecognitionClient(f"127.0.0.1:{listener.getsockname()[1]}") as client,
                pytest.raises(ServiceError, match="UNAVAILABLE: .*ping timeout"),
            ):
                client.list_heads()
        finally:
            gone.set()


def test_a_client_that_vanishes_is_let_go() -> None:
    options = (*keepalive_options(0.1, 0.2), ("grpc.keepalive_permit_without_calls", 1))
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=options)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(PREFACE + SETTINGS + ACKNOWLEDGEMENT)
            assert received(connection).endswith(b"ping_timeout")
        server.stop(0).wait()
