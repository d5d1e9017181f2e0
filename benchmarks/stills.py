"""A recorded screen: still frames between two slides, computed once or at every engine call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import Out, Rounds, Size, SpatialPrecision
from benchmarks.figures import RESULTS, Figure, Row, report, seconds_figure
from benchmarks.measuring import Meter, ratios, run_in_turn
from benchmarks.models import random_repository
from benchmarks.videos import RATE, read_chunks, write_video
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.types import Features, Frames

PICTURE = "640x360"
EVERY_CALL, CHANGED_CALLS = "every call computed", "what moves computed"


def command(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the video in seconds.")] = 60.0,
    slide_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for which a slide is held.")] = 10.0,
    rounds: Rounds = 2,
    size: Size = "B",
    precision: SpatialPrecision = "int8",
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure a recorded screen, with engine calls in which nothing moves computed or reused."""
    with TemporaryDirectory() as folder:
        recognizer = Recognizer.load(
            random_repository(Path(folder) / "models", size, precision), device=device
        )
        held = f"fps=1/{slide_seconds:g},fps={RATE}"
        video = write_video(Path(folder) / "slides.mp4", seconds, PICTURE, look=held)
        chunks = read_chunks(video, recognizer.manifest.sampling, recognizer.model.chunk_frames)
        frames = np.concatenate(list(chunks))
    ways: dict[str, Callable[[], Features]] = {
        EVERY_CALL: partial(_every_call, recognizer, frames),
        CHANGED_CALLS: partial(recognizer.features, frames),
    }
    expected = _every_call(recognizer, frames)
    meters = {way: Meter() for way in ways}
    for features in run_in_turn(ways, meters, rounds):
        for found in features.values():
            np.testing.assert_array_equal(found, expected)
    faster = ratios(meters[EVERY_CALL].wall, meters[CHANGED_CALLS].wall)
    more = {
        EVERY_CALL: {"still": Figure("share of tubelets", "neither", (_still_share(recognizer, frames),))},
        CHANGED_CALLS: {"times faster": Figure("x", "higher", faster)},
    }
    case = {"video seconds": seconds, "slide seconds": slide_seconds}
    rows = [
        Row({**case, "what": way}, {"time": seconds_figure(*meter.wall), **more[way]})
        for way, meter in meters.items()
    ]
    report("stills", rows, out)


def _every_call(recognizer: Recognizer, frames: Frames) -> Features:
    """Return what ``Recognizer.features`` returns, with every chunk put through the engine."""
    size, tubelet = recognizer.model.chunk_frames, recognizer.manifest.dimensions.tubelet_frames
    padded = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % size, axis=0)])
    calls = [
        recognizer.model.engine.spatial(padded[None, at : at + size])[0] for at in range(0, len(padded), size)
    ]
    features: Features = np.concatenate(calls)[: -(-len(frames) // tubelet)]
    return features


def _still_share(recognizer: Recognizer, frames: Frames) -> float:
    """Return the share of tubelets that equal the tubelet before to the last bit."""
    tubelet = recognizer.manifest.dimensions.tubelet_frames
    tubelets = frames[: len(frames) // tubelet * tubelet].reshape(-1, tubelet * frames[0].size)
    return float(np.mean([np.array_equal(a, b) for a, b in zip(tubelets[1:], tubelets[:-1], strict=True)]))
