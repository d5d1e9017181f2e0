"""HTTP proxy that refuses everything and keeps what it was asked for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


class FakeProxy:
    """Answers each connection with 403. ``requests``: first lines received, one for each connection."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = "{}:{}".format(*listener.getsockname())
        self.requests: list[str] = []
        self._listener = listener

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    self.requests.append(connection.recv(1 << 12).decode("latin-1").partition("\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")


@contextmanager
def fake_proxy(variable: str) -> Iterator[FakeProxy]:
    """Run a proxy that ``variable`` alone names."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        proxy = FakeProxy(listener)
        for name in (*PROXY_VARIABLES, "no_proxy", "no_grpc_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv(variable, f"http://user:secret@{proxy.address}")
        thread = threading.Thread(target=proxy.serve)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends accept()
            thread.join()
