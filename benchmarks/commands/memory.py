"""``python -m benchmarks memory``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, SIZE_NAMES, Out, Rounds
from benchmarks.figures import RESULTS, report


def memory(
    repository: Annotated[
        Path, typer.Option(help="Model repository for videos of each length.")
    ] = DEMO_MODEL,
    seconds: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of a video; repeatable (default: 10, 600, 3600)."),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Of a window; repeatable (default: 8, 16, 32, 64, 128)."),
    ] = None,
    size: Annotated[str, typer.Option(help=f"{SIZE_NAMES}: of the models with these windows.")] = "tiny",
    rounds: Rounds = 2,
    out: Out = RESULTS,
) -> None:
    """Peak memory against the length of the video and the frames of a window."""
    from benchmarks import memory as peaks  # noqa: PLC0415 - needs torch, as the next
    from benchmarks.models import random_repository  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        windows = {
            count: random_repository(Path(folder) / f"{size}-{count}", size, "fp32", frames=count)
            for count in frames or [8, 16, 32, 64, 128]
        }
        rows = peaks.measure(repository, windows, seconds or [10, 600, 3600], Path(folder), rounds)
    report("memory", rows, out)
