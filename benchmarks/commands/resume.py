"""``python -m benchmarks resume``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Out, Seed
from benchmarks.figures import RESULTS, report


def resume(
    videos: Annotated[int, typer.Option(min=1, help="Short videos.")] = 300,
    broken: Annotated[int, typer.Option(min=0, help="Of those, how many are broken.")] = 30,
    kills: Annotated[int, typer.Option(min=0, help="How often the job is killed.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the job.")] = 2,
    seed: Seed = 0,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """A scoring job that is killed again and again, against one that is left alone."""
    from benchmarks import resume as jobs  # noqa: PLC0415 - needs pyarrow

    with TemporaryDirectory() as folder:
        rows = jobs.measure(
            repository, Path(folder), videos=videos, broken=broken, kills=kills, workers=workers, seed=seed
        )
    report("resume", rows, out)
