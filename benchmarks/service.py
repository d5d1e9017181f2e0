"""What the video service costs: 16 streams of frames through it, against the engine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.triton import TritonServer
from sfavivit import Recognizer
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient

STREAMS = 16
ROUNDS = 5


def measure(repository: Path, seconds: float) -> list[dict[str, Any]]:
    """Each engine alone, and the service over it: ``seconds`` of video in each of 16 streams.

    The engine alone does all that a session does with the frames: spatial, temporal, windows. In the
    process, one stream after the other, which is what it does best; over Triton all at once, for its batches.
    """
    rows = [_compare("onnxruntime", str(repository), seconds, at_once=1)]
    with Path(os.devnull).open("w") as log, TritonServer(repository, log=log) as triton:
        rows.append(_compare("triton", triton.url, seconds, at_once=STREAMS))
    return rows


def _compare(engine: str, location: str, seconds: float, *, at_once: int) -> dict[str, Any]:
    """Rounds of engine and service in turn; the median round of each."""
    recognizer = Recognizer.load(location)
    sampling, dims = recognizer.manifest.sampling, recognizer.manifest.dimensions
    shape = (round(seconds * sampling.fps), dims.image_size, dims.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    alone, served = [], []
    with (
        _service(location) as address,
        VideoRecognitionClient(address) as client,
        ThreadPoolExecutor(at_once) as callers,
        ThreadPoolExecutor(STREAMS) as clients,
    ):
        for _ in range(ROUNDS):
            alone.append(
                _timed(lambda: list(callers.map(_alone, [recognizer] * STREAMS, [frames] * STREAMS)))
            )
            served.append(_timed(lambda: list(clients.map(_served, [client] * STREAMS, [frames] * STREAMS))))
    rates = [STREAMS * len(frames) / float(np.median(times)) for times in (alone, served)]
    return {
        "engine": engine,
        "alone, frames a second": round(rates[0]),
        "service, frames a second": round(rates[1]),
        "share": round(rates[1] / rates[0], 3),
    }


@contextmanager
def _service(location: str) -> Iterator[str]:
    """Address of a service on ``location`` in a process of its own."""
    source = "--engine" if location.startswith("triton://") else "--repository"
    command = [sys.executable, "-m", "serving", source, location, "--port", "0"]
    process = subprocess.Popen([*command, "--metrics-port", "-1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield f"127.0.0.1:{json.loads(process.stderr.readline())['port']}"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _alone(recognizer: Recognizer, frames: NDArray[np.uint8]) -> None:
    session = recognizer.session()
    session.push(frames)
    session.finish()


def _served(client: VideoRecognitionClient, frames: NDArray[np.uint8]) -> None:
    for _ in client.stream([frames], Query()):
        pass


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
