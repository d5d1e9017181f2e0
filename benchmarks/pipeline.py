"""Time of classifying a video, against the longer of its decoding alone and its inference alone.

``ratio`` is classify / max(decode, inference). Decoding and inference share the machine's cores, which must
do the work of both; ``bound`` is the ratio that this allows:

    max(decode, inference, (decode CPU + inference CPU) / cores) / max(decode, inference)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.command_options import DEMO_MODEL, Out, Rounds, SpatialPrecision
from benchmarks.figures import RESULTS, Case, Figure, Row, report, seconds_figure
from benchmarks.measuring import cpu_seconds, ratios
from benchmarks.models import random_repository
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.inference.streaming import FrameStream
from sfavivit.video.reader import VideoReader


def command(
    repository: Annotated[
        Path, typer.Option(help="Model repository that costs less than its decoding.")
    ] = DEMO_MODEL,
    seconds: Annotated[float, typer.Option(min=1, help="Length of its video in seconds.")] = 60.0,
    size: Annotated[str, typer.Option(help="Size of a model that costs more than its decoding.")] = "B",
    precision: SpatialPrecision = "int8",
    size_seconds: Annotated[float, typer.Option(min=1, help="Length of its video in seconds.")] = 16.0,
    picture: Annotated[str, typer.Option(help="WIDTHxHEIGHT of both videos.")] = "640x360",
    rounds: Rounds = 5,
    out: Out = RESULTS,
) -> None:
    """Compare classifying with the longer of decoding alone and inference alone."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        large = random_repository(folder / "models", size, precision)
        rows = [
            measure(model, models, folder, video_seconds=length, picture=picture, rounds=rounds)
            for model, models, length in (
                (repository.name, repository, seconds),
                (f"{size} {precision}", large, size_seconds),
            )
        ]
    report("pipeline", rows, out)


@dataclass
class _Clock:
    """Wall and CPU seconds of one work, a sample a round; CPU includes child processes that ended."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def round(self, work: Callable[[], int]) -> int:
        """Measure ``work`` and return its result."""
        cpu, wall = cpu_seconds(), time.perf_counter()
        done = work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(cpu_seconds() - cpu)
        return done


def measure(
    model: str, repository: Path, folder: Path, *, video_seconds: float, picture: str, rounds: int
) -> Row:
    """Classify, only decode and only infer one video, in turn; inference alone starts from frames in memory.

    ``model``: name of the repository in the result; ``picture``: WIDTHxHEIGHT of the video.
    """
    recognizer = Recognizer.load(repository)
    video = write_video(folder / "video.mp4", video_seconds, picture)
    with VideoReader(
        video, recognizer.manifest.sampling, chunk_frames=recognizer.model.chunk_frames
    ) as reader:
        chunks = list(reader)
    frames = sum(map(len, chunks))

    def classify() -> int:
        return recognizer.classify(video).frames_used

    def decode() -> int:
        with VideoReader(
            video, recognizer.manifest.sampling, chunk_frames=recognizer.model.chunk_frames
        ) as reader:
            return sum(map(len, reader))

    def infer() -> int:
        stream = FrameStream(recognizer.model)
        for chunk in chunks:
            stream.push(chunk)
        stream.finish()
        return stream.session.frames_used

    infer()  # the first calls of an engine are slow
    clocks = {work: _Clock() for work in (classify, decode, infer)}
    for _ in range(rounds):
        for work, clock in clocks.items():
            done = clock.round(work)
            assert done == frames, f"{work.__name__} gave {done} of {frames} frames"
    case: Case = {"model": model, "picture": picture, "video seconds": video_seconds}
    return Row(case, _figures(clocks[classify], clocks[decode], clocks[infer]))


def _figures(classify: _Clock, decode: _Clock, infer: _Clock) -> dict[str, Figure]:
    cores = len(os.sched_getaffinity(0))
    larger = [max(pair) for pair in zip(decode.wall, infer.wall, strict=True)]
    work = [(one + other) / cores for one, other in zip(decode.cpu, infer.cpu, strict=True)]
    bounds = tuple(max(base, shared) / base for base, shared in zip(larger, work, strict=True))
    return {
        "classify": seconds_figure(*classify.wall),
        "decode": seconds_figure(*decode.wall),
        "inference": seconds_figure(*infer.wall),
        "ratio": Figure("x", "lower", ratios(classify.wall, larger)),
        "bound": Figure("x", "neither", bounds),
        "decode CPU": seconds_figure(*decode.cpu),
        "inference CPU": seconds_figure(*infer.cpu),
    }
