"""What the video service costs: 16 streams of frames through it, against the engine alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit import Recognizer
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient

STREAMS = 16
ROUNDS = 5


def measure(repository: Path, seconds: float) -> list[dict[str, Any]]:
    """Rounds of engine and service in turn, ``seconds`` of video a stream; the median round of each.

    The engine alone does all that a session does with the frames: spatial, temporal, windows, one stream
    after the other.
    """
    recognizer = Recognizer.load(repository)
    sampling, dims = recognizer.manifest.sampling, recognizer.manifest.dimensions
    shape = (round(seconds * sampling.fps), dims.image_size, dims.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", "0"]
    service = subprocess.Popen([*command, "--metrics-port", "-1"], stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        port = json.loads(service.stderr.readline())["port"]
        with (
            VideoRecognitionClient(f"127.0.0.1:{port}") as client,
            ThreadPoolExecutor(STREAMS) as pool,
        ):
            alone, served = [], []
            for _ in range(ROUNDS):
                alone.append(_timed(lambda: _alone(recognizer, frames)))
                served.append(_timed(lambda: list(pool.map(_served, [client] * STREAMS, [frames] * STREAMS))))
    finally:
        service.kill()
        service.wait()
        if service.stderr:
            service.stderr.close()
    rates = [STREAMS * len(frames) / float(np.median(times)) for times in (alone, served)]
    return [
        {"what": f"engine alone, {STREAMS} streams in turn", "frames a second": round(rates[0])},
        {"what": f"service, {STREAMS} streams at once", "frames a second": round(rates[1])},
        {"what": "share", "frames a second": round(rates[1] / rates[0], 3)},
    ]


def _alone(recognizer: Recognizer, frames: NDArray[np.uint8]) -> None:
    for _ in range(STREAMS):
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
