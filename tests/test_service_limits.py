"""More load than allowed, clients that give up or die, requests that are withdrawn."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from serving.gate import EngineGate, GatedEngine
from serving.lifecycle import VideoServer
from sfavivit.errors import CancelledRequestError, DeadlineError, ServiceBusyError, SfaVivitError
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.protocol.requests import streaming_config
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.types import Features, Frames, Logits
from tests.conftest import random_frames
from tests.service import FASTSTART, address_of, encode_videos, eventually, running_service
from tests.video_files import encode, ffmpeg

pytest_plugins = ["tests.service_fixtures"]

RUNNING, WAITING = 3, 2


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoServer]:
    spool = tmp_path_factory.mktemp("spool")
    with running_service(
        repository, max_streams=RUNNING, max_waiting=WAITING, idle_seconds=3.0, spool=spool
    ) as server:
        yield server


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_videos(tmp_path_factory.mktemp("video"), 1)[0]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes far longer to decode than any test runs."""
    folder = tmp_path_factory.mktemp("video")
    once = encode(folder / "once.mp4", random_frames(250).repeat(16, 1).repeat(16, 2))
    ffmpeg("-stream_loop", "40", "-i", once, "-c", "copy", *FASTSTART[-2:], folder / "long.mp4")
    return folder / "long.mp4"


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in _command(child)]


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):  # gone, or waiting to be reaped
        return " ".join(process.cmdline())
    return ""


def idle(server: VideoServer, seconds: float = 5.0) -> bool:
    """No slot taken, nobody in line, no decoder, no file."""
    admission = server.service.admission
    return eventually(
        lambda: (
            admission.running == admission.waiting == server.service.gate.waiting == 0
            and not decoders()
            and not spooled(psutil.Process())
        ),
        seconds,
    )


def spooled(process: psutil.Process) -> list[str]:
    links = [fd.readlink() for fd in Path(f"/proc/{process.pid}/fd").iterdir() if fd.is_symlink()]
    return [str(link) for link in links if "/spool" in str(link)]


class HeldUpload:
    """An upload that stands still in the middle until it is released."""

    def __init__(self, client: VideoRecognitionClient, video: Path) -> None:
        self._release = threading.Event()
        self._pieces = (video.read_bytes()[:5000], video.read_bytes()[5000:])
        self._client = client

    def chunks(self) -> Iterator[bytes]:
        yield self._pieces[0]
        self._release.wait(20)
        yield self._pieces[1]

    def run(self) -> list[Any]:
        return list(self._client.stream(self.chunks()))

    def release(self) -> None:
        self._release.set()


def test_surplus_is_refused_at_once_and_the_rest_is_served(
    client: VideoRecognitionClient, server: VideoServer, video: Path
) -> None:
    held = [HeldUpload(client, video) for _ in range(RUNNING + WAITING)]
    with ThreadPoolExecutor(len(held)) as pool:
        futures = [pool.submit(upload.run) for upload in held]
        admission = server.service.admission
        assert eventually(lambda: (admission.running, admission.waiting) == (RUNNING, WAITING))
        before = psutil.Process().memory_info().rss
        for _ in range(50):
            started = time.monotonic()
            with pytest.raises(ServiceBusyError, match="3 requests are running and 2 waiting"):
                client.classify(video)
            assert time.monotonic() - started < 1
        assert psutil.Process().memory_info().rss - before < 30 << 20
        for upload in held:
            upload.release()
        answers = [future.result(20) for future in futures]
    assert len({answer[-1].heads["default"][""].logits.tobytes() for answer in answers}) == 1
    assert idle(server)


def test_a_deadline_stops_the_decoder(
    client: VideoRecognitionClient, server: VideoServer, long_video: Path
) -> None:
    with (
        VideoRecognitionClient(address_of(server), timeout_seconds=1.5) as hasty,
        pytest.raises(DeadlineError),
    ):
        hasty.classify(long_video)
    assert idle(server, 1.0)


def test_a_cancelled_stream_stops_the_decoder(
    client: VideoRecognitionClient, server: VideoServer, long_video: Path
) -> None:
    answers = client.stream(iter([long_video.read_bytes()]))
    next(answers)
    assert decoders()
    answers.close()  # type: ignore[attr-defined]
    assert idle(server, 1.0)


def test_a_stream_that_is_cancelled_in_line_leaves_the_line(
    client: VideoRecognitionClient, server: VideoServer, video: Path
) -> None:
    held = [HeldUpload(client, video) for _ in range(RUNNING)]
    with ThreadPoolExecutor(RUNNING) as pool:
        futures = [pool.submit(upload.run) for upload in held]
        assert eventually(lambda: server.service.admission.running == RUNNING)
        with (
            VideoRecognitionClient(address_of(server), timeout_seconds=0.5) as hasty,
            pytest.raises(DeadlineError),
        ):
            hasty.classify(video)
        assert eventually(lambda: server.service.admission.waiting == 0)
        for upload in held:
            upload.release()
        assert all(future.result(20) for future in futures)
    assert idle(server)


def test_a_client_that_trickles_is_given_up(client: VideoRecognitionClient, server: VideoServer) -> None:
    """A few bytes just before its time is over win it no more than those bytes are worth."""
    silent = threading.Event()

    def requests() -> Iterator[Any]:
        yield streaming_config(Query(), None)
        while not silent.wait(1.0):
            yield pb.StreamingClassifyRequest(content=b"x")

    started = time.monotonic()
    with pytest.raises(grpc.RpcError, match="bytes came in 3 s of waiting; send at least 1024") as caught:
        list(client._stub.StreamingClassify(requests(), timeout=15))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 10
    silent.set()
    assert idle(server)


def test_a_client_that_falls_silent_is_given_up(client: VideoRecognitionClient, server: VideoServer) -> None:
    silent = threading.Event()

    def requests() -> Iterator[Any]:
        yield streaming_config(Query(), None)
        silent.wait(20)

    with pytest.raises(grpc.RpcError, match="nothing came for 3 s") as caught:
        list(client._stub.StreamingClassify(requests(), timeout=15))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    silent.set()
    assert idle(server)


UPLOADER = """
import sys, time
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.protocol.answers import Query
from sfavivit.protocol.messages import query_message
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
address, method, video = sys.argv[1:]
data = open(video, "rb").read()
client = VideoRecognitionClient(address)
def upload():
    yield pb.ClassifyRequest(config=query_message(Query()))
    yield pb.ClassifyRequest(content=data[:100_000])
    time.sleep(60)
def stream():
    yield data
    time.sleep(60)
if method == "classify":
    client._stub.Classify(upload())
else:
    for answer in client.stream(stream()):
        pass
"""


@pytest.mark.parametrize("method", ["classify", "stream"])
def test_a_client_killed_in_mid_upload_leaves_nothing(
    server: VideoServer, client: VideoRecognitionClient, long_video: Path, video: Path, method: str
) -> None:
    uploader = subprocess.Popen([sys.executable, "-c", UPLOADER, address_of(server), method, long_video])
    try:
        taken = spooled if method == "classify" else (lambda _: [str(child) for child in decoders()])
        assert eventually(lambda: bool(taken(psutil.Process())), 15)
    finally:
        uploader.kill()
        uploader.wait()
    assert idle(server, 2.0)
    assert client.classify(video).frames_used == 40


def test_many_cancelled_requests_leave_nothing(
    client: VideoRecognitionClient, server: VideoServer, long_video: Path, video: Path
) -> None:
    """Cancelled at every possible moment."""

    def one(number: int) -> str:
        with VideoRecognitionClient(address_of(server), timeout_seconds=0.02 * number) as hasty:
            try:
                if number % 2:
                    hasty.classify(long_video)
                else:
                    list(hasty.stream([long_video.read_bytes()[:50_000]]))
            except SfaVivitError as error:
                return error.kind
            return "answered"

    with ThreadPoolExecutor(RUNNING) as pool:
        outcomes = set(pool.map(one, range(1, 40)))
    assert outcomes <= {"deadline", "answered"} and "deadline" in outcomes
    assert idle(server)
    assert client.classify(video).frames_used == 40


def test_the_gate_is_fair_and_counts() -> None:
    """Two streams that always want in get their turns alternately."""
    gate, turns = EngineGate(1), []
    ready = threading.Barrier(2)

    def stream(name: str) -> None:
        ready.wait()
        for _ in range(30):
            with gate.turn(threading.Event()):
                turns.append(name)
                time.sleep(0.002)

    threads = [threading.Thread(target=stream, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alternating = sum(a != b for a, b in pairwise(turns))
    assert alternating >= 50
    assert gate.waiting == 0


def test_the_gate_lets_the_cancelled_go() -> None:
    gate, cancelled, seen = EngineGate(1), threading.Event(), []

    def wait() -> None:
        with pytest.raises(CancelledRequestError), gate.turn(cancelled):
            raise AssertionError("its turn never comes")
        seen.append(True)

    with gate.turn(threading.Event()):
        thread = threading.Thread(target=wait)
        thread.start()
        assert eventually(lambda: gate.waiting == 1)
        cancelled.set()
        gate.wake()
        thread.join(1)
    assert seen and gate.waiting == 0
    with gate.turn(threading.Event()):
        pass


class CountingEngine:
    """Answers how many turns are taken while it is called."""

    def __init__(self, gate: EngineGate) -> None:
        self._gate = gate

    def spatial(self, frames: Frames) -> Features:
        return np.full((1, 1, 1), self._gate.running, np.float32)

    def temporal(self, head: str, features: Features) -> Logits:
        return {"": np.full((1, 1), self._gate.running, np.float32)}


def test_calls_in_one_turn_wait_once_and_are_cancelled_in_between() -> None:
    gate, cancelled = EngineGate(1), threading.Event()
    engine = GatedEngine(CountingEngine(gate), gate, cancelled)
    frames, features = np.zeros((1, 2, 1, 1, 3), np.uint8), np.zeros((1, 1, 1), np.float32)
    with engine.one_turn():
        assert gate.running == 0, "no call, no turn"
        assert engine.spatial(frames) == 1
        assert gate.running == 1, "kept for the windows"
        assert engine.temporal("default", features)[""] == 1
        cancelled.set()
        with pytest.raises(CancelledRequestError):
            engine.temporal("default", features)
    assert gate.running == gate.waiting == 0
    cancelled.clear()
    assert engine.spatial(frames) == 1
    assert gate.running == 0, "outside, a call is a turn"
