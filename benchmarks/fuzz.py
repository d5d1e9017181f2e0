"""Broken videos against a real video service, which must answer each, or name what is wrong with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.command_options import DEMO_MODEL, ModelRepository, Out, Seed
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.service_process import service_process
from benchmarks.videos import write_video
from sfavivit.errors import SfaVivitError
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient

CLIENTS = 4
MAX_SECONDS = 60
FORBIDDEN = {"internal", "service", "deadline"}  # kinds of error that would be a fault of the service


def command(
    count: Annotated[int, typer.Option(min=1, help="Number of mutated videos.")] = 10_000,
    seed: Seed = 0,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """Upload and stream broken videos to the video service."""
    # A changed time stamp can make two seconds last for hours: a long video then, and no fault.
    options = ("--repository", repository, "--limit-duration-seconds", str(MAX_SECONDS))
    with (
        TemporaryDirectory() as folder,
        service_process(*options) as service,
        VideoRecognitionClient(service.address, timeout_seconds=60) as client,
    ):
        # The index comes first, so that the video can be read while it arrives.
        video = write_video(Path(folder) / "short.mp4", 2, "64x64", options="-movflags +faststart")
        rows = _attack(client, service.process, video.read_bytes(), count, seed)
    report("fuzz", rows, out)


def mutations(content: bytes, seed: int = 0) -> Iterator[bytes]:
    """Yield copies of a file with up to eight places overwritten, removed, doubled or flipped; endless."""
    rng = np.random.default_rng(seed)
    while True:
        data = bytearray(content)
        for _ in range(rng.integers(1, 9)):
            at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
            match rng.integers(4):
                case 0:
                    data[at : at + length] = rng.bytes(length)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case _:
                    data[at] ^= 1 << int(rng.integers(8))
        yield bytes(data)


def outcome(client: VideoRecognitionClient, data: bytes, *, streaming: bool) -> str:
    """Return the kind of the error, ``whole`` for an answer, or ``damaged`` for one with a warning."""
    try:
        if streaming:
            *_, answer = client.stream([data[: len(data) // 2], data[len(data) // 2 :]], Query(top_k=1))
        else:
            answer = client.classify(data, Query(top_k=1))
    except SfaVivitError as error:
        return error.kind
    return "damaged" if getattr(answer, "warning", None) else "whole"


def _attack(
    client: VideoRecognitionClient, service: psutil.Process, content: bytes, count: int, seed: int
) -> list[Row]:
    """Upload half of the mutations, stream the other half, and count the outcomes.

    Raises:
        AssertionError: the service failed, or kept a process of a video.
    """
    started = time.monotonic()
    before = client.classify(content).to_json()["heads"]
    attack, one_at_a_time = islice(enumerate(mutations(content, seed)), count), Lock()

    def one(_: int) -> str:
        with one_at_a_time:
            number, data = next(attack)
        return outcome(client, data, streaming=number % 2 == 1)

    warm = [one(0) for _ in range(min(count, 100))]
    resident = service.memory_info().rss
    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = Counter(warm + list(pool.map(one, range(count - len(warm)))))
    growth = service.memory_info().rss - resident
    assert not FORBIDDEN & outcomes.keys(), outcomes
    assert client.classify(content).to_json()["heads"] == before
    children = [child for child in service.children(recursive=True) if child.status() != "zombie"]
    assert not children, children
    case: Case = {"mutations": count, "seed": seed}
    rows = [
        Row({**case, "outcome": kind}, {"videos": Figure("videos", "neither", (number,))})
        for kind, number in outcomes.most_common()
    ]
    whole = {
        "time": Figure("s", "lower", (time.monotonic() - started,)),
        "growth of resident memory": Figure("MB", "lower", (growth / 1e6,)),
    }
    return [*rows, Row(case, whole)]
