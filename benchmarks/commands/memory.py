"""``python -m benchmarks memory``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.figures import RESULTS, report
from benchmarks.machine import ROOT


def memory(
    repository: Annotated[Path, typer.Option(help="Model repository for videos of each length.")] = ROOT
    / "model_repository",
    seconds: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of a video; repeatable (default: 10, 600, 3600)."),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Of a window; repeatable (default: 8, 16, 32, 64, 128)."),
    ] = None,
    size: Annotated[str, typer.Option(help="tiny, B, L, H, g: of the models with these windows.")] = "tiny",
    rounds: Annotated[int, typer.Option(min=1, help="In which the alternatives take turns.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
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
    report("memory", rows, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), out)
