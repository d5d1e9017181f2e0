"""Overload, clients that give up or die, and cancelled requests."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import pytest

from serving.lifecycle import VideoServer
from sfavivit.errors import DeadlineError, ServiceBusyError, SfaVivitError
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.protocol.messages import frames_message
from sfavivit.protocol.requests import streaming_config
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.protocol.v1.video_recognition_pb2_grpc import VideoRecognitionStub
from tests.conftest import random_frames
from tests.serving.support import (
    FASTSTART,
    HeldUpload,
    address_of,
    decoders,
    encode_videos,
    metrics_of,
    running_service,
    spooled,
)
from tests.video_files import H264, encode, ffmpeg
from tests.waiting import eventually

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
    """Takes 10 s to decode, far longer than any test runs; coarse, so that it is soon sent."""
    folder = tmp_path_factory.mktemp("video")
    frames = random_frames(250).repeat(16, 1).repeat(16, 2)
    once = encode(folder / "once.mp4", frames, options=(*H264, "-crf", "51"))
    ffmpeg("-stream_loop", "400", "-i", once, "-c", "copy", *FASTSTART[-2:], folder / "long.mp4")
    return folder / "long.mp4"


def idle(server: VideoServer, seconds: float = 5.0) -> bool:
    """Return whether no slot, place in a queue, decoder or file is left."""
    admission = server.servicer.admission
    return eventually(
        lambda: (
            admission.running == admission.waiting == server.servicer.scheduler.waiting == 0
            and not decoders()
            and not spooled(psutil.Process())
        ),
        seconds,
    )


def test_surplus_is_refused_at_once_and_the_rest_is_served(
    client: VideoRecognitionClient, server: VideoServer, video: Path
) -> None:
    held = [HeldUpload(client, video) for _ in range(RUNNING + WAITING)]
    with ThreadPoolExecutor(len(held)) as pool:
        futures = [pool.submit(upload.run) for upload in held]
        admission = server.servicer.admission
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
        assert eventually(lambda: server.servicer.admission.running == RUNNING)
        with (
            VideoRecognitionClient(address_of(server), timeout_seconds=0.5) as hasty,
            pytest.raises(DeadlineError),
        ):
            hasty.classify(video)
        assert eventually(lambda: server.servicer.admission.waiting == 0)
        for upload in held:
            upload.release()
        assert all(future.result(20) for future in futures)
    assert idle(server)


@pytest.mark.parametrize(
    ("pause_seconds", "message"),
    [(20, "nothing came for 3 s"), (1, "bytes came in 3 s of waiting; send at least 1024")],
    ids=["silent", "trickling"],
)
def test_a_client_that_sends_too_little_is_given_up(
    client: VideoRecognitionClient, server: VideoServer, pause_seconds: float, message: str
) -> None:
    """A few bytes just before its time is over win it no more than those bytes are worth."""
    given_up = threading.Event()

    def requests() -> Iterator[Any]:
        yield streaming_config(Query(), None)
        while not given_up.wait(pause_seconds):
            yield pb.StreamingClassifyRequest(content=b"x")

    started = time.monotonic()
    with pytest.raises(grpc.RpcError, match=message) as caught:
        list(client._stub.StreamingClassify(requests(), timeout=15))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 10
    given_up.set()
    assert idle(server)


def test_a_client_that_stops_reading_is_given_up(repository: Path) -> None:
    """Its answers fill the connection; then its call ends, and is counted, though its status waits too."""

    def requests() -> Iterator[Any]:
        yield streaming_config(Query(("default",), top_k=7, stride_seconds=0.16), None)
        while True:
            yield pb.StreamingClassifyRequest(frames=frames_message(random_frames(64)))

    # A window of constant size is full sooner.
    with (
        running_service(repository, idle_seconds=1.0) as server,
        grpc.insecure_channel(address_of(server), [("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        stub = cast(Any, VideoRecognitionStub)(channel)
        answers = stub.StreamingClassify(requests(), timeout=60)
        next(answers)
        assert eventually(lambda: server.servicer.admission.running == 0, 20)
        assert idle(server)
        counted = 'sfavivit_requests_total{code="DEADLINE_EXCEEDED",method="StreamingClassify"} 1.0'
        assert eventually(lambda: counted in metrics_of(server.metrics_port))
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no answer was read for 1 s" in caught.value.details()


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
                    list(hasty.stream([long_video.read_bytes()[:1_000_000]]))
            except SfaVivitError as error:
                return error.kind
            return "answered"

    with ThreadPoolExecutor(RUNNING) as pool:
        outcomes = set(pool.map(one, range(1, 40)))
    assert outcomes <= {"deadline", "answered"} and "deadline" in outcomes
    assert idle(server)
    assert client.classify(video).frames_used == 40
