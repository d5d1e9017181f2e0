"""``python -m benchmarks selection``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, HeldOutVideos, ModelRepository, Out, TrainingVideos
from benchmarks.figures import RESULTS, report


def selection(
    tubelets: Annotated[
        list[int] | None, typer.Option(min=1, help="To learn from; repeatable (default: 32, 16, 8).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Heads of each kind, one a round.")] = 3,
    videos: TrainingVideos = 50,
    held_out: HeldOutVideos = 100,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """New heads that learn from some tubelets of each window, against one that learns from all."""
    from benchmarks import selection as selecting  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        rows = selecting.measure(
            repository,
            Path(folder),
            videos=videos,
            held_out=held_out,
            counts=tubelets or [32, 16, 8],
            seeds=seeds,
        )
    report("selection", rows, out)
