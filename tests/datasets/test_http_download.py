"""Downloads from servers that refuse, fail, redirect, stall, drip or end too early."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import SimpleNamespace

import fsspec
import pytest

from sfavivit.datasets import http_download
from sfavivit.datasets.fetch import fetched
from sfavivit.errors import (
    VideoError,
    VideoLimitError,
    VideoNotFoundError,
    VideoPermissionError,
    VideoUnavailableError,
    codes_of,
)

CONTENT = bytes(range(256)) * 8
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Server that gives ``answers`` one after another, the last of them for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        self.ended = Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that left."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.mp4"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        pass


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code, "a reason\tof its own")
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        body = b"" if code in (204, 304) else b"<p>"
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def content(pause: float = 0, sent: int = len(CONTENT), said: int = len(CONTENT)) -> Answer:
    """Send the content in 8 pieces with pauses between them; only ``sent`` of the bytes ``said``."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(said))
        request.end_headers()
        for start in range(0, sent, len(CONTENT) // 8):
            request.wfile.write(CONTENT[start : min(sent, start + len(CONTENT) // 8)])
            time.sleep(pause)
        request.close_connection = sent < said

    return answer


def silent(request: BaseHTTPRequestHandler) -> None:
    assert isinstance(request.server, Server)
    request.server.ended.wait(10)
    request.close_connection = True


def stalled(request: BaseHTTPRequestHandler) -> None:
    content(sent=100)(request)
    silent(request)


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.close_connection = True
    try:
        while True:
            request.wfile.write(b"x")
    except ConnectionError:
        pass


def bomb(request: BaseHTTPRequestHandler) -> None:
    body = gzip.compress(bytes(10_000_000))
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def badly_chunked(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    time.sleep(0.1)  # with its head in one packet it would be refused as a whole
    request.wfile.write(b"ZZZ\r\n" + CONTENT)
    request.close_connection = True


def always_to_be_continued(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
    silent(request)


def disconnected(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_download, "FIRST_WAIT_SECONDS", 0.001)
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def fetch(server: Server, *answers: Answer, limit_bytes: int = 1 << 20, stall_seconds: float = 5) -> bytes:
    server.answers = list(answers)
    with os.fdopen(fetched(server.url, limit_bytes, stall_seconds).descriptor, "rb") as file:
        return file.read()


def refused(server: Server, *answers: Answer, **options: float) -> VideoError:
    with pytest.raises(VideoError) as caught:
        fetch(server, *answers, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(repr(server.url))
    assert str(caught.value).isprintable()
    return caught.value


REFUSALS: dict[int, tuple[type[VideoError], str, str]] = {
    401: (VideoPermissionError, "PERMISSION_DENIED", "access is denied (HTTP 401 Unauthorized)"),
    403: (VideoPermissionError, "PERMISSION_DENIED", "access is denied (HTTP 403 Forbidden)"),
    404: (VideoNotFoundError, "NOT_FOUND", "no such file (HTTP 404 Not Found)"),
    410: (VideoNotFoundError, "NOT_FOUND", "no such file (HTTP 410 Gone)"),
    204: (VideoError, "INVALID_ARGUMENT", "cannot be fetched: HTTP 204 No Content"),
    304: (VideoError, "INVALID_ARGUMENT", "cannot be fetched: HTTP 304 Not Modified"),
    302: (VideoError, "INVALID_ARGUMENT", "cannot be fetched: HTTP 302 Found"),
    400: (VideoError, "INVALID_ARGUMENT", "cannot be fetched: HTTP 400 Bad Request"),
    451: (VideoError, "INVALID_ARGUMENT", "HTTP 451"),
    499: (VideoError, "INVALID_ARGUMENT", "cannot be fetched: HTTP 499"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_is_said_and_not_tried_again(server: Server, code: int) -> None:
    kind, grpc_code, text = REFUSALS[code]
    error = refused(server, status(code))
    assert (type(error), codes_of(error).grpc_code) == (kind, grpc_code)
    assert text in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504, 599])
def test_a_busy_server_is_tried_again(server: Server, code: int) -> None:
    assert fetch(server, status(code), status(code), status(code), content()) == CONTENT
    server.requests.clear()
    error = refused(server, status(code))
    assert type(error) is VideoUnavailableError and codes_of(error).grpc_code == "UNAVAILABLE"
    assert f"HTTP {code}" in str(error) and str(error).endswith("after 4 tries")
    assert len(server.requests) == 4


def test_retry_after_is_heeded_within_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(http_download, "time", SimpleNamespace(sleep=waits.append))
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    answers = [status(429, Retry_After=value) for value in ("7", soon, "in a while")]
    assert fetch(server, *answers, content()) == CONTENT
    assert waits[0] == 7 and 20 < waits[1] <= 50 and waits[2] < 1
    error = refused(server, status(503, Retry_After="86400"))
    assert "asks to be left alone for 86400 s" in str(error)
    assert len(waits) == 3


def test_a_lost_connection_is_tried_again_from_the_start(server: Server) -> None:
    assert fetch(server, content(sent=700), disconnected, content()) == CONTENT
    error = refused(server, content(sent=700))
    assert type(error) is VideoUnavailableError and "after 4 tries" in str(error)


def test_redirects_are_followed_but_not_for_ever(server: Server) -> None:
    assert fetch(server, status(302, Location="/b.mp4"), content()) == CONTENT
    assert server.requests == ["/a.mp4", "/b.mp4"]
    assert "redirected 10 times" in str(refused(server, status(301, Location="/a.mp4")))
    assert "cannot be fetched" in str(refused(server, status(302, Location="file:///etc/passwd")))


def test_a_slow_download_lives_and_a_silent_one_does_not(server: Server) -> None:
    """All together takes longer than a stall may: there is no limit on the whole."""
    assert fetch(server, content(pause=0.2), stall_seconds=1.2) == CONTENT
    for answer in (silent, stalled):
        error = refused(server, answer, stall_seconds=0.3)
        assert type(error) is VideoLimitError
        assert "no byte from its server in 0.3 s (limit)" in str(error)
    assert len(server.requests) == 3


@pytest.mark.parametrize("answer", [badly_chunked, always_to_be_continued])
def test_an_answer_without_content_ends(server: Server, answer: Answer) -> None:
    """Nothing is left of its request, and the next download works."""
    error = refused(server, answer, stall_seconds=0.5)
    assert type(error) is VideoLimitError
    assert "no byte from its server in 0.5 s (limit)" in str(error)
    assert fetch(server, content()) == CONTENT
    assert not asyncio.all_tasks(fsspec.asyn.get_loop())  # type: ignore[no-untyped-call]


def test_an_endless_file_is_bounded(server: Server) -> None:
    for answer in (endless, bomb):
        error = refused(server, answer, limit_bytes=50_000)
        assert type(error) is VideoLimitError and "more than 50000 bytes" in str(error)
    assert fetch(server, content(), limit_bytes=len(CONTENT)) == CONTENT


def test_fsspec_settings_go_on_counting(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is asked where fsspec is told to heed it."""
    server.answers = [content()]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"trust_env": True}})
    with os.fdopen(fetched("http://video.invalid/a.mp4", 1 << 20).descriptor, "rb") as file:
        assert file.read() == CONTENT
    assert server.requests == ["http://video.invalid/a.mp4"]
