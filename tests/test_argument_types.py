"""Arguments of a wrong type: each public function says what it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pytest

from sfavivit import (
    AsyncVideoRecognitionClient,
    ClassifyOptions,
    FeatureStore,
    Limits,
    Recognizer,
    Repository,
    UsageError,
    VideoReader,
    VideoRecognitionClient,
    VideoSegment,
    Views,
)
from sfavivit.features.reader import FeatureReader
from sfavivit.protocol.answers import Query
from tests.serving.support import address_of, running_service


@dataclass
class Made:
    """Objects whose methods are called."""

    repository: Path
    video: Path
    recognizer: Recognizer
    store: FeatureStore
    client: VideoRecognitionClient


@pytest.fixture(scope="module")
def made(
    repository: Path, recognizer: Recognizer, parity_video: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    # A real service: gRPC makes the messages of a stream when it is connected.
    with running_service(repository) as server, VideoRecognitionClient(address_of(server)) as client:
        yield Made(repository, parity_video, recognizer, store, client)


def asynchronously(call: Callable[[AsyncVideoRecognitionClient], Any]) -> None:
    """Run one call of the client for asyncio; answers of ``stream`` are iterated over."""

    async def run() -> None:
        async with AsyncVideoRecognitionClient("127.0.0.1:1") as client:
            answer = call(client)
            if hasattr(answer, "__anext__"):
                await anext(answer)
            else:
                await answer

    asyncio.run(run())


def reader(made: Made, **options: Any) -> VideoReader:
    arguments: dict[str, Any] = {"sampling": made.recognizer.manifest.sampling, "chunk_frames": 8} | options
    return VideoReader(made.video, **arguments)


WRONG = (None, 3, 2.5, "text", b"bytes", ["a"], {"a": 1}, object(), np.zeros(3), lambda: None)
PATH = (str, Path, bytes)
NUMBER = (int, float)
# For each parameter the types of WRONG that it takes, and a call.
CALLS: dict[str, tuple[tuple[type, ...], Callable[[Made, Any], Any]]] = {
    "Recognizer.load repository": ((str,), lambda m, x: Recognizer.load(x)),
    "Recognizer.load engine": ((str, NoneType), lambda m, x: Recognizer.load(m.repository, engine=x)),
    "Recognizer.load threads": ((int, NoneType), lambda m, x: Recognizer.load(m.repository, threads=x)),
    "Recognizer.load chunk_tubelets": (
        (int, NoneType),
        lambda m, x: Recognizer.load(m.repository, chunk_tubelets=x),
    ),
    "Recognizer model": ((), lambda m, x: Recognizer(x)),
    "Recognizer.features frames": ((np.ndarray,), lambda m, x: m.recognizer.features(x)),
    "Recognizer.logits features": ((np.ndarray,), lambda m, x: m.recognizer.logits(x)),
    "Recognizer.logits head": (
        (str,),
        lambda m, x: m.recognizer.logits(np.zeros((1, 32), np.float32), x),
    ),
    "Recognizer.stream chunks": ((), lambda m, x: list(m.recognizer.stream(x))),
    "Recognizer.stream options": ((), lambda m, x: list(m.recognizer.stream([], x))),
    "Recognizer.classify video": (PATH, lambda m, x: m.recognizer.classify(x)),
    "Recognizer.classify options": ((), lambda m, x: m.recognizer.classify(m.video, x)),
    "Recognizer.classify store": ((NoneType,), lambda m, x: m.recognizer.classify(m.video, store=x)),
    "Recognizer.classify limits": ((), lambda m, x: m.recognizer.classify(m.video, limits=x)),
    "Recognizer.classify on_progress": (
        (NoneType, type(lambda: None)),
        lambda m, x: m.recognizer.classify(m.video, on_progress=x),
    ),
    "Recognizer.classify on_window": (
        (NoneType, type(lambda: None)),
        lambda m, x: m.recognizer.classify(m.video, on_window=x),
    ),
    "Recognizer.classify on_scores": (
        (NoneType, type(lambda: None)),
        lambda m, x: m.recognizer.classify(m.video, on_scores=x),
    ),
    "Recognizer.recognize reader": ((), lambda m, x: m.recognizer.recognize(x)),
    "Recognizer.recognize options": (
        (),
        lambda m, x: m.recognizer.recognize(FeatureReader(m.recognizer.model, m.video), x),
    ),
    "ClassifyOptions heads": ((list,), lambda m, x: ClassifyOptions(heads=x)),
    "ClassifyOptions head of heads": ((str,), lambda m, x: ClassifyOptions(heads=(x,))),
    "ClassifyOptions stride_seconds": ((NoneType, *NUMBER), lambda m, x: ClassifyOptions(stride_seconds=x)),
    "ClassifyOptions top_k": ((int,), lambda m, x: ClassifyOptions(top_k=x)),
    "ClassifyOptions views": ((NoneType,), lambda m, x: ClassifyOptions(views=x)),
    "Views clips": ((int,), lambda m, x: Views(clips=x)),
    "Views crops": ((int,), lambda m, x: Views(crops=x)),
    "Views.parse text": ((str,), lambda m, x: Views.parse(x)),
    "Limits seconds": (NUMBER, lambda m, x: Limits(duration_seconds=x)),
    "Limits pixels": (NUMBER, lambda m, x: Limits(pixels=x)),
    "VideoSegment source": (PATH, lambda m, x: VideoSegment(x)),
    "VideoSegment start": (NUMBER, lambda m, x: VideoSegment(m.video, x)),
    "VideoSegment end": ((NoneType, *NUMBER), lambda m, x: VideoSegment(m.video, 0, x)),
    "VideoReader video": (PATH, lambda m, x: VideoReader(x, m.recognizer.manifest.sampling, chunk_frames=8)),
    "VideoReader sampling": ((), lambda m, x: reader(m, sampling=x)),
    "VideoReader chunk_frames": ((int,), lambda m, x: reader(m, chunk_frames=x)),
    "VideoReader limits": ((NoneType,), lambda m, x: reader(m, limits=x)),
    "VideoReader crops": ((), lambda m, x: reader(m, crops=x)),
    "Repository.load path": ((str,), lambda m, x: Repository.load(x)),
    "FeatureStore root": ((str,), lambda m, x: FeatureStore(x, create=False)),
    "FeatureStore dtype": ((NoneType,), lambda m, x: FeatureStore(m.store.root / "new", x)),
    "FeatureStore.get key": ((), lambda m, x: m.store.get(x)),
    "FeatureStore.put key": ((), lambda m, x: m.store.put(x, x)),
    "FeatureStore.path digest": ((str,), lambda m, x: m.store.path(x)),
    "client address": ((str,), lambda m, x: VideoRecognitionClient(x)),
    "client tls": ((NoneType,), lambda m, x: VideoRecognitionClient("h:1", tls=x)),
    "client token": ((str, NoneType), lambda m, x: VideoRecognitionClient("h:1", token=x)),
    "client timeout_seconds": (
        (NoneType, *NUMBER),
        lambda m, x: VideoRecognitionClient("h:1", timeout_seconds=x),
    ),
    "client.classify video": (PATH, lambda m, x: m.client.classify(x)),
    "client.classify query": ((), lambda m, x: m.client.classify(m.video, x)),
    "client.extract_features video": (PATH, lambda m, x: m.client.extract_features(x)),
    "client.extract_features query": ((), lambda m, x: m.client.extract_features(m.video, x)),
    "client.stream chunks": ((), lambda m, x: list(m.client.stream(x))),
    "client.stream chunk": ((bytes, np.ndarray), lambda m, x: list(m.client.stream([x]))),
    "client.stream query": ((), lambda m, x: list(m.client.stream([], x))),
    "client.stream provisional_seconds": (
        (NoneType, *NUMBER),
        lambda m, x: list(m.client.stream([], provisional_seconds=x)),
    ),
    "client.score_features features": ((np.ndarray,), lambda m, x: m.client.score_features(x)),
    "client.score_features query": (
        (),
        lambda m, x: m.client.score_features(np.zeros((1, 32), np.float32), x),
    ),
    "async classify video": (PATH, lambda m, x: asynchronously(lambda c: c.classify(x))),
    "async classify query": ((), lambda m, x: asynchronously(lambda c: c.classify(m.video, x))),
    "async extract_features video": (PATH, lambda m, x: asynchronously(lambda c: c.extract_features(x))),
    "async stream chunks": ((), lambda m, x: asynchronously(lambda c: c.stream(x))),
    "async score_features": ((np.ndarray,), lambda m, x: asynchronously(lambda c: c.score_features(x))),
    "Query heads": ((list,), lambda m, x: Query(heads=x)),
    "Query top_k": ((int,), lambda m, x: Query(top_k=x)),
    "Query min_confidence": (NUMBER, lambda m, x: Query(min_confidence=x)),
    "Query stride_seconds": ((NoneType, *NUMBER), lambda m, x: Query(stride_seconds=x)),
    "Query start_seconds": (NUMBER, lambda m, x: Query(start_seconds=x)),
    "Query end_seconds": ((NoneType, *NUMBER), lambda m, x: Query(end_seconds=x)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_type_is_refused_by_what_is_taken(made: Made, name: str) -> None:
    taken, call = CALLS[name]
    for value in WRONG:
        if not isinstance(value, taken):
            with pytest.raises(UsageError, match=r"takes .*, not \w+$"):
                call(made, value)


def test_every_public_method_is_among_them() -> None:
    """Methods without arguments aside."""
    tested = {name.split()[0] for name in CALLS}
    for prefix, cls in (
        ("Recognizer", Recognizer),
        ("client", VideoRecognitionClient),
        ("FeatureStore", FeatureStore),
    ):
        for name, method in vars(cls).items():
            function = getattr(method, "__func__", method)
            if not name.startswith("_") and callable(function) and function.__code__.co_argcount > 1:
                assert f"{prefix}.{name}" in tested


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e12])
def test_seconds_that_no_request_can_carry(seconds: float) -> None:
    for name in ("stride_seconds", "start_seconds", "end_seconds"):
        with pytest.raises(UsageError, match=name):
            Query(**{name: seconds})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top_k"):
        Query(top_k=1 << 40)
