"""A long video in overlapping windows: each tubelet computed once, or every window from its own frames."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command_options import Floats, Name, Out, Rounds, Size, SpatialPrecision
from benchmarks.figures import RESULTS, Figure, Row, report, seconds_figure
from benchmarks.measuring import Meter, ratios, run_in_turn
from benchmarks.models import random_repository
from benchmarks.videos import read_chunks, write_video
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.errors import UsageError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.windows import PADDING, Window, all_windows
from sfavivit.types import Frames

HEAD = "first"
TOLERANCE = 1e-4
ONCE, RECOMPUTED = "each tubelet once", "each window recomputed"


def command(
    overlap: Annotated[
        Floats,
        typer.Option(
            min=0,
            help="Share of a window that the next one repeats; repeatable (default: 0, 0.5, 0.75, 0.875).",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the video in seconds.")] = 120.0,
    rounds: Rounds = 4,
    size: Size = "tiny",
    precision: SpatialPrecision = "fp32",
    frames: Annotated[int, typer.Option(min=2, help="Frames in a window.")] = 128,
    name: Name = "long",
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Compare overlapping windows of features computed once with windows recomputed from frames."""
    with TemporaryDirectory() as folder:
        models = random_repository(Path(folder) / "models", size, precision, frames=frames)
        recognizer = Recognizer.load(models, device=device)
        length = recognizer.manifest.head(HEAD).dimensions.max_tubelets
        strides = {share: _stride(share, length) for share in overlap or (0, 0.5, 0.75, 0.875)}
        video = write_video(Path(folder) / "long.mp4", seconds)
        chunks = read_chunks(video, recognizer.manifest.sampling, recognizer.model.chunk_frames)
        pixels = np.concatenate(list(chunks))
        for compute in (_once, _recomputed):  # the first calls of an engine are slow
            compute(recognizer, pixels[:frames], length)
        report(name, _measure(recognizer, pixels, strides, rounds), out)


def _measure(recognizer: Recognizer, frames: Frames, strides: dict[float, int], rounds: int) -> list[Row]:
    """Time both ways at each overlap (a share of a window), in turn; the first is the base of the others."""
    works = {
        (way, overlap): partial(compute, recognizer, frames, stride)
        for overlap, stride in strides.items()
        for way, compute in ((ONCE, _once), (RECOMPUTED, _recomputed))
    }
    meters = {name: Meter() for name in works}
    for logits in run_in_turn(works, meters, rounds):
        differences = {
            overlap: float(np.abs(logits[ONCE, overlap] - logits[RECOMPUTED, overlap]).max())
            for overlap in strides
        }
        assert max(differences.values()) <= TOLERANCE, f"logits differ by {differences} at these overlaps"
    first = next(iter(strides))
    return [
        Row(
            {"way": way, "overlap": overlap},
            {
                "time": seconds_figure(*meter.wall),
                "times the first": Figure("x", "lower", ratios(meter.wall, meters[way, first].wall)),
                "windows": Figure("windows", "neither", (len(logits[way, overlap]),)),
                "largest difference": Figure("logit", "neither", (differences[overlap],)),
            },
        )
        for (way, overlap), meter in meters.items()
    ]


def _stride(overlap: float, length: int) -> int:
    """Return the stride in tubelets of windows of ``length`` tubelets.

    Raises:
        UsageError: the overlap is no whole number of tubelets.
    """
    stride = round((1 - overlap) * length)
    if not 0 <= overlap < 1 or stride != (1 - overlap) * length:
        raise UsageError(
            f"invalid overlap {overlap:g}: windows of {length} tubelets can overlap by "
            f"0, 1/{length} ... {length - 1}/{length}"
        )
    return stride


def _once(recognizer: Recognizer, frames: Frames, stride: int) -> NDArray[np.float32]:
    """Return logits float32 [windows, C] from features that are computed once."""
    sampling, dims = recognizer.manifest.sampling, recognizer.manifest.dimensions
    options = ClassifyOptions(stride_seconds=stride * dims.tubelet_frames / sampling.fps)
    return np.stack([window.logits[""] for window in recognizer.stream([frames], options)])


def _recomputed(recognizer: Recognizer, frames: Frames, stride: int) -> NDArray[np.float32]:
    """Return logits float32 [windows, C], every window from its own frames."""
    dims = recognizer.manifest.head(HEAD).dimensions
    tubelets = -(-len(frames) // dims.tubelet_frames)
    return recomputed_logits(recognizer, frames, all_windows(tubelets, dims.max_tubelets, stride), HEAD)


def recomputed_logits(
    recognizer: Recognizer, frames: Frames, windows: Iterable[Window], head: str
) -> NDArray[np.float32]:
    """Return logits float32 [windows, C] of windows of ``frames``, each from its own frames."""
    entry, tubelet_frames = recognizer.manifest.head(head), recognizer.manifest.dimensions.tubelet_frames
    length = entry.dimensions.max_tubelets
    logits = []
    for window in windows:
        features = recognizer.features(frames[window.start * tubelet_frames : window.stop * tubelet_frames])
        if len(features) < length:
            features = PADDING[entry.padding](features, length)
        logits.append(recognizer.logits(features, head)[""])
    return np.stack(logits)
