"""The video service over the real Triton: the same answers, and Triton may go away and come back."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from serving.lifecycle import VideoServer
from serving.models import ModelSource
from serving.settings import Settings
from serving.triton import TritonServer
from sfavivit import Recognition, Recognizer
from sfavivit.engines.model import LoadedModel
from sfavivit.engines.triton import TritonEngine
from sfavivit.errors import DeadlineError, EngineOutdatedError, EngineUnavailableError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.protocol.answers import Query, ServedRecognition, ServedWindow
from sfavivit.protocol.client import VideoRecognitionClient
from tests.conftest import build_model, random_frames
from tests.export.support import export_plainly
from tests.serving.support import (
    address_of,
    encode_videos,
    health_of,
    pieces,
    running_service,
    triton_executions,
)
from tests.waiting import eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return encode_videos(tmp_path_factory.mktemp("videos"), 3)


@pytest.fixture(scope="module")
def server(triton_server: TritonServer) -> Iterator[VideoServer]:
    with running_service(triton_server.url) as server:
        yield server


def client_of(server: VideoServer) -> VideoRecognitionClient:
    return VideoRecognitionClient(address_of(server), timeout_seconds=60)


def assert_close(answer: Recognition, expected: Recognition) -> None:
    assert answer.frames_used == expected.frames_used
    for head, outputs in expected.heads.items():
        for output, result in outputs.items():
            np.testing.assert_allclose(answer.heads[head][output].logits, result.logits, atol=1e-5)


@contextmanager
def standing_still(triton: TritonServer) -> Iterator[None]:
    """Triton holds its connections and does nothing."""
    assert triton.process
    triton.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        triton.process.send_signal(signal.SIGCONT)


def test_sixteen_streams_share_batches_and_nothing_else(
    server: VideoServer, triton_server: TritonServer, repository: Path, videos: list[Path]
) -> None:
    local = Recognizer.load(repository)
    expected = [local.classify(video) for video in videos]
    before = triton_executions(triton_server, "sfavivit_spatial")
    together = threading.Barrier(16)

    def one(number: int) -> Any:
        together.wait()
        video = videos[number % len(videos)]
        return client.classify(video) if number % 2 else list(client.stream(pieces(video)))[-1]

    with client_of(server) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(16)))
        assert client.list_heads().model_digests == local.manifest.weights_sha256
        features = client.extract_features(videos[0])
        assert_close(client.score_features(features), expected[0])
    for number, answer in enumerate(answers):
        assert_close(answer, expected[number % len(videos)])
    requests, executions = np.subtract(triton_executions(triton_server, "sfavivit_spatial"), before)
    assert requests / executions > 1


def test_triton_is_killed_in_mid_stream_and_comes_back(repository: Path, videos: list[Path]) -> None:
    with (
        TritonServer(repository, exit_seconds=0) as triton,
        running_service(triton.url, health_seconds=0.3) as server,
        client_of(server) as client,
    ):
        assert health_of(address_of(server)) == SERVING
        killed: list[float] = []

        def chunks() -> Iterator[Any]:
            yield random_frames(64)
            assert eventually(lambda: bool(killed), 20)
            yield random_frames(64)

        with pytest.raises(EngineUnavailableError):
            for answer in client.stream(chunks(), Query(("default",))):
                if isinstance(answer, ServedWindow) and not killed:
                    assert triton.process is not None
                    triton.process.kill()
                    killed.append(time.monotonic())
        assert time.monotonic() - killed[0] < 10
        assert eventually(lambda: health_of(address_of(server)) == NOT_SERVING, 10)
        with pytest.raises(EngineUnavailableError):
            client.classify(videos[0])
        triton.stop()
        triton.start()
        assert eventually(lambda: health_of(address_of(server)) == SERVING, 15)
        answer = client.classify(videos[0])
        assert isinstance(answer, ServedRecognition)
        assert_close(answer, Recognizer.load(repository).classify(videos[0]))


def test_a_client_that_gives_up_on_a_triton_that_stands_still_leaves_nothing_behind(repository: Path) -> None:
    with (
        TritonServer(repository, exit_seconds=0) as triton,
        running_service(triton.url) as server,
        ThreadPoolExecutor(1) as pool,
        VideoRecognitionClient(address_of(server), timeout_seconds=1) as client,
        standing_still(triton),
    ):
        asked = pool.submit(lambda: list(client.stream([random_frames(64)])))
        assert eventually(lambda: server.servicer.admission.running == 1)
        with pytest.raises(DeadlineError):
            asked.result(10)
        assert eventually(lambda: server.servicer.admission.running == 0, 1)


def test_a_triton_that_hangs_is_given_up_and_taken_back(
    repository: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfavivit.engines.triton.CHECK_SECONDS", 0.3)
    monkeypatch.setattr("sfavivit.engines.triton.START_SECONDS", 0.3)
    with (
        TritonServer(repository, exit_seconds=0) as triton,
        running_service(triton.url, health_seconds=0.1, engine_silent_seconds=1) as server,
        client_of(server) as client,
    ):
        with standing_still(triton):
            start = time.monotonic()
            with pytest.raises(EngineUnavailableError, match="Triton at .* failed: .*closed"):
                list(client.stream([random_frames(64)]))
            assert time.monotonic() - start < 10
            assert health_of(address_of(server)) == NOT_SERVING
            start = time.monotonic()
            with pytest.raises(EngineUnavailableError, match="models are not available: .*did not answer"):
                client.classify(videos[0])
            assert time.monotonic() - start < 1
        assert eventually(lambda: health_of(address_of(server)) == SERVING, 15)
        assert_close(client.classify(videos[0]), Recognizer.load(repository).classify(videos[0]))


def test_the_service_may_start_before_triton() -> None:
    with running_service("triton://127.0.0.1:1", health_seconds=0.3) as server, client_of(server) as client:
        assert health_of(address_of(server)) == NOT_SERVING
        with pytest.raises(EngineUnavailableError):
            client.list_heads()


def test_the_old_models_answer_until_the_new_are_open(
    triton_server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource(Settings(triton_server.url))
    old = source.current()
    assert isinstance(old.engine, TritonEngine)
    assert old.engine.options.outdated_advice == "send the request again", "its reader is a client"
    seen: list[LoadedModel] = []

    def outdated(_: TritonEngine) -> None:
        raise EngineOutdatedError("Triton serves other models now")

    def reopened(self: ModelSource) -> LoadedModel:
        seen.append(self.current())
        return old.with_engine(old.engine)

    monkeypatch.setattr(TritonEngine, "check", outdated)
    monkeypatch.setattr(ModelSource, "_open", reopened)
    assert source.check() is None
    assert seen == [old]
    assert source.current() is not old


def test_a_new_version_is_served_without_a_restart(
    repository: Path, videos: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "model_repository"
    shutil.copytree(repository, copy)
    with (
        TritonServer(copy, exit_seconds=0, poll_seconds=1) as triton,
        running_service(triton.url, health_seconds=0.3) as server,
        client_of(server) as client,
    ):
        before = client.classify(videos[0], Query(("default",)))
        export_plainly(build_model(seed=5), copy, videos[0])
        assert eventually(lambda: client.list_heads().heads["default"].version == 2, 20)
        answer = client.classify(videos[0], Query(("default",)))
        assert_close(answer, Recognizer.load(copy).classify(videos[0], ClassifyOptions(heads=("default",))))
        found, old = (a.heads["default"][""].logits for a in (answer, before))
        assert np.abs(found - old).max() > 1e-2
