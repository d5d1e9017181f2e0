"""Fixtures: a service on the small repository, and a recognizer to compare its answers with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.lifecycle import VideoServer
from sfavivit import Recognizer
from sfavivit.protocol.client import VideoRecognitionClient
from tests.serving.support import address_of, encode_videos, running_service

MAX_UPLOAD_BYTES = 1 << 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return encode_videos(tmp_path_factory.mktemp("videos"), 5)


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoServer]:
    with running_service(
        repository, max_upload_bytes=MAX_UPLOAD_BYTES, spool=tmp_path_factory.mktemp("spool")
    ) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: VideoServer) -> Iterator[VideoRecognitionClient]:
    with VideoRecognitionClient(address_of(server), timeout_seconds=30) as client:
        yield client


@pytest.fixture(scope="module")
def local(repository: Path) -> Recognizer:
    """The same models in this process, and the same chunks."""
    return Recognizer.load(repository)
