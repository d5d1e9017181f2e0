"""Broken videos against a real service: every answer is an answer or an error that says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import psutil

from sfavivit.errors import SfaVivitError
from sfavivit.ffmpeg_program import find_ffmpeg
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient

CLIENTS = 4
LONGEST_SECONDS = 60
FORBIDDEN = {"internal", "service", "deadline"}  # kinds that would be a fault of the service


def mutations(content: bytes, seed: int = 0) -> Iterator[bytes]:
    """Copies of a file with up to eight places changed, removed, doubled or with a bit flipped; endless."""
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


def short_video(folder: Path) -> Path:
    """Two seconds of a small test picture that moves, readable while it arrives."""
    path = folder / "short.mp4"
    options = "-v error -f lavfi -i testsrc=duration=2:size=64x64:rate=25 -c:v libx264 -pix_fmt yuv420p"
    command = [find_ffmpeg().path, *options.split(), "-movflags", "+faststart", str(path)]
    subprocess.run(command, check=True)
    return path


def outcome(client: VideoRecognitionClient, data: bytes, *, streaming: bool) -> str:
    """Kind of the error, ``whole``, or ``damaged`` for an answer with a warning."""
    try:
        if streaming:
            *_, answer = client.stream([data[: len(data) // 2], data[len(data) // 2 :]], Query(top_k=1))
        else:
            answer = client.classify(data, Query(top_k=1))
    except SfaVivitError as error:
        return error.kind
    return "damaged" if getattr(answer, "warning", None) else "whole"


def measure(repository: Path, video: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Half of the mutations are uploaded and half streamed; rows of outcomes, and what is left at the end.

    Raises:
        AssertionError: the service failed, or kept something.
    """
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", "0"]
    # A changed time stamp can make two seconds last for hours, which is then a long video and no fault.
    command += ["--metrics-port", "-1", "--limit-duration-seconds", str(LONGEST_SECONDS)]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        port = json.loads(service.stderr.readline())["port"]
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            pool.submit(service.stderr.read)  # a log that nobody reads would hold the service up
            try:
                return _attack(f"127.0.0.1:{port}", psutil.Process(service.pid), video, count, seed, pool)
            finally:
                service.kill()
    finally:
        service.kill()
        service.wait()
        if service.stderr:
            service.stderr.close()


def _attack(
    address: str, service: psutil.Process, video: Path, count: int, seed: int, pool: ThreadPoolExecutor
) -> list[dict[str, Any]]:
    content = video.read_bytes()
    started = time.monotonic()
    with VideoRecognitionClient(address, timeout_seconds=60) as client:
        before = client.classify(content).to_json()["heads"]
        attack, one_at_a_time = islice(enumerate(mutations(content, seed)), count), Lock()

        def one(_: int) -> str:
            with one_at_a_time:
                number, data = next(attack)
            return outcome(client, data, streaming=number % 2 == 1)

        warm = [one(0) for _ in range(min(count, 100))]
        resident = service.memory_info().rss
        outcomes = Counter(warm + list(pool.map(lambda _: one(0), range(count - len(warm)))))
        growth = service.memory_info().rss - resident
        assert not FORBIDDEN & outcomes.keys(), outcomes
        assert client.classify(content).to_json()["heads"] == before
    children = [child for child in service.children(recursive=True) if child.status() != "zombie"]
    assert not children, children
    rows: list[dict[str, Any]] = [{"what": kind, "value": number} for kind, number in outcomes.most_common()]
    rows.append({"what": "mutations", "value": sum(outcomes.values())})
    rows.append({"what": "seconds", "value": round(time.monotonic() - started, 1)})
    rows.append({"what": "growth of resident memory, MB", "value": round(growth / 1e6, 1)})
    return rows
