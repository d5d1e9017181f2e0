"""``python -m benchmarks fuzz``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Out, Seed
from benchmarks.figures import RESULTS, report


def fuzz(
    count: Annotated[int, typer.Option(min=1, help="Mutations of the video.")] = 10_000,
    seed: Seed = 0,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """Broken videos against the video service."""
    from benchmarks import fuzz as fuzzing  # noqa: PLC0415 - needs gRPC
    from benchmarks.videos import write_video  # noqa: PLC0415 - looks for an ffmpeg

    with TemporaryDirectory() as folder:
        # Its index first: readable while it arrives.
        video = write_video(Path(folder) / "short.mp4", 2, "64x64", options="-movflags +faststart")
        rows = fuzzing.measure(repository, video, count, seed)
    report("fuzz", rows, out)
