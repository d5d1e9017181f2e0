"""Throughput of the video service with 16 streams of frames, against the engine alone.

docs/benchmarks.md has the method.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from benchmarks import empty_engine
from benchmarks.command_options import DEMO_MODEL, ModelRepository, Name, Out, Rounds
from benchmarks.empty_engine import EmptyEngine
from benchmarks.figures import RESULTS, Better, Case, Figure, Row, report
from benchmarks.measuring import Meter, run_in_turn
from benchmarks.service_process import process_that_serves, service_process
from benchmarks.videos import random_frames
from serving.models import slots_in_process
from serving.triton import TritonServer
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.engines.device import Device
from sfavivit.engines.model import LoadedModel
from sfavivit.inference.streaming import FrameStream
from sfavivit.protocol.answers import Query, ServedWindow
from sfavivit.protocol.client import VideoRecognitionClient

STREAMS = 16


def command(
    seconds: Annotated[float, typer.Option(help="Length of the video in each stream, in seconds.")] = 30.0,
    rounds: Rounds = 5,
    repository: ModelRepository = DEMO_MODEL,
    name: Name = "service",
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Compare the throughput of the video service with that of the engine alone."""
    # The engine alone does all that a session does with the frames: spatial, temporal, windows. In the
    # process it has as many concurrent streams as suit it best; over Triton all of them, for its batches.
    at_once = slots_in_process(LoadedModel.load(repository, device=device))
    rows = [_compare(repository, str(repository), seconds, rounds, device, at_once=at_once)]
    with Path(os.devnull).open("w") as log, TritonServer(repository, log=log) as triton:
        assert triton.process is not None
        engine = psutil.Process(triton.process.pid)
        rows.append(
            _compare(repository, triton.url, seconds, rounds, "auto", at_once=STREAMS, processes=[engine])
        )
    report(name, rows, out)


def _compare(
    repository: Path,
    location: str,
    seconds: float,
    rounds: int,
    device: Device,
    *,
    at_once: int,
    processes: Sequence[psutil.Process] = (),
) -> Row:
    """Measure engine, service and empty service in turn."""
    recognizer = Recognizer.load(location, device=device)
    sampling, dims = recognizer.manifest.sampling, recognizer.manifest.dimensions
    frames = random_frames(round(seconds * sampling.fps), dims.image_size)
    over_triton = location.startswith("triton://")
    source = "--engine" if over_triton else "--repository"
    with ExitStack() as stack:
        service = stack.enter_context(service_process(source, location, "--device", device))
        empty = stack.enter_context(process_that_serves(empty_engine.__name__, repository))
        client, empty_client = (
            stack.enter_context(VideoRecognitionClient(one.address)) for one in (service, empty)
        )
        callers = stack.enter_context(ThreadPoolExecutor(at_once))
        clients = stack.enter_context(ThreadPoolExecutor(STREAMS))
        idle = Recognizer(LoadedModel(recognizer.model.catalog, EmptyEngine(recognizer.model.catalog)))
        works = {
            "alone": partial(_together, callers, _alone, recognizer, frames),
            "served": partial(_together, clients, _served, client, frames),
            "session": partial(_together, callers, _alone, idle, frames),
            "transport": partial(_together, clients, _served, empty_client, frames),
        }
        windows = STREAMS * _alone(recognizer, frames)
        for name in ("served", "transport"):  # a warm-up, as the line above is for the engine alone
            assert works[name]() == windows
        meters = {
            "alone": Meter(processes),
            "served": Meter([*processes, service.process]),
            "session": Meter(),
            "transport": Meter([empty.process]),
        }
        for answered in run_in_turn(works, meters, rounds):
            assert set(answered.values()) == {windows}, f"not {windows} windows were answered: {answered}"
    sent = STREAMS * len(frames)
    engine = "triton" if over_triton else "onnxruntime"
    case: Case = {"engine": engine, "streams": STREAMS, "seconds a stream": seconds}
    return Row(case, _figures(meters, sent, sent / recognizer.model.chunk_frames))


def _figures(meters: Mapping[str, Meter], frames: int, chunks: float) -> dict[str, Figure]:
    """Return the figures, a sample a round; ``frames`` and ``chunks`` are those of a round."""
    alone, service = (frames / np.array(meters[name].wall) for name in ("alone", "served"))
    cpu = {name: 1000 / chunks * np.array(meter.cpu) for name, meter in meters.items()}
    added = cpu["transport"] - cpu["session"]
    by_clients = 1000 / chunks * np.array(meters["transport"].own_cpu)
    figures: dict[str, tuple[str, Better, NDArray[np.float64]]] = {
        "alone": ("frames/s", "higher", alone),
        "service": ("frames/s", "higher", service),
        "share": ("share", "higher", service / alone),
        "share by CPU": ("share", "higher", cpu["alone"] / cpu["served"]),
        "ceiling": ("share", "higher", cpu["alone"] / (cpu["alone"] + added)),
        "CPU alone": ("ms/chunk", "lower", cpu["alone"]),
        "CPU of service and clients": ("ms/chunk", "lower", cpu["served"]),
        "CPU added": ("ms/chunk", "lower", added),
        "of that, by clients": ("ms/chunk", "lower", by_clients),
    }
    return {name: Figure(unit, better, tuple(values)) for name, (unit, better, values) in figures.items()}


def _together(pool: ThreadPoolExecutor, work: Callable[..., int], *arguments: Any) -> int:
    """Run ``work`` for all streams at once and return the sum of its results."""
    return sum(future.result() for future in [pool.submit(work, *arguments) for _ in range(STREAMS)])


def _alone(recognizer: Recognizer, frames: NDArray[np.uint8]) -> int:
    stream = FrameStream(recognizer.model)
    return len([*stream.push(frames), *stream.finish()])


def _served(client: VideoRecognitionClient, frames: NDArray[np.uint8]) -> int:
    beyond_the_end = float(len(frames))
    answers = client.stream([frames], Query(), provisional_seconds=beyond_the_end)
    return sum(isinstance(answer, ServedWindow) for answer in answers)
