"""Time of classifying a video, against the longer of its decoding alone and its inference alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import DEMO_MODEL, Out, Rounds, SpatialPrecision
from benchmarks.figures import RESULTS, Figure, Row, report, seconds_figure
from benchmarks.measuring import Meter, ratios, run_in_turn
from benchmarks.models import random_repository
from benchmarks.videos import read_chunks, write_video
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.engines.device import Device
from sfavivit.inference.streaming import FrameStream
from sfavivit.utils.cpus import available_cpus


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
    device: DeviceOption = "cpu",
) -> None:
    """Compare classifying with the longer of decoding alone and inference alone.

    A ratio of 1 means that the two overlap fully. One model costs less than its decoding, the other more.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        large = random_repository(folder / "models", size, precision)
        rows = [
            measure(
                model, models, folder, video_seconds=length, picture=picture, rounds=rounds, device=device
            )
            for model, models, length in (
                (repository.name, repository, seconds),
                (f"{size} {precision}", large, size_seconds),
            )
        ]
    report("pipeline", rows, out)


def measure(
    model: str,
    repository: Path,
    folder: Path,
    *,
    video_seconds: float,
    picture: str,
    rounds: int,
    device: Device = "cpu",
) -> Row:
    """Classify, only decode and only infer one video, in turn; inference alone starts from frames in memory.

    ``model``: name of the repository in the result; ``picture``: WIDTHxHEIGHT of the video.
    """
    recognizer = Recognizer.load(repository, device=device)
    sampling, chunk_frames = recognizer.manifest.sampling, recognizer.model.chunk_frames
    video = write_video(folder / "video.mp4", video_seconds, picture)
    chunks = list(read_chunks(video, sampling, chunk_frames))

    def infer() -> int:
        stream = FrameStream(recognizer.model)
        for chunk in chunks:
            stream.push(chunk)
        stream.finish()
        return stream.session.frames_used

    works = {
        "classify": lambda: recognizer.classify(video).frames_used,
        "decode": lambda: sum(map(len, read_chunks(video, sampling, chunk_frames))),
        "inference": infer,
    }
    infer()  # the first calls of an engine are slow
    meters = {name: Meter() for name in works}
    for frames in run_in_turn(works, meters, rounds):
        assert set(frames.values()) == {sum(map(len, chunks))}, f"not the same frames: {frames}"
    return Row({"model": model, "picture": picture, "video seconds": video_seconds}, _figures(meters))


def _figures(meters: dict[str, Meter]) -> dict[str, Figure]:
    decode, inference = meters["decode"], meters["inference"]
    larger = np.maximum(decode.wall, inference.wall)
    shared = np.add(decode.cpu, inference.cpu) / available_cpus()
    return {
        **{name: seconds_figure(*meter.wall) for name, meter in meters.items()},
        "ratio": Figure("x", "lower", ratios(meters["classify"].wall, larger)),
        "bound": Figure("x", "neither", ratios(np.maximum(larger, shared), larger)),
        "decode CPU": seconds_figure(*decode.cpu),
        "inference CPU": seconds_figure(*inference.cpu),
    }
