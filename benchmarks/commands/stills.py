"""``python -m benchmarks stills``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import Out, Rounds, Size, SpatialPrecision
from benchmarks.figures import RESULTS, report


def stills(
    seconds: Annotated[float, typer.Option(min=1, help="Of video.")] = 60.0,
    slide_seconds: Annotated[float, typer.Option(min=0.1, help="For which a slide is held.")] = 10.0,
    rounds: Rounds = 2,
    size: Size = "B",
    precision: SpatialPrecision = "int8",
    out: Out = RESULTS,
) -> None:
    """A recorded screen: calls in which nothing moves, computed or not."""
    from benchmarks import stills as slides  # noqa: PLC0415 - needs torch
    from benchmarks.models import random_repository  # noqa: PLC0415 - as above

    with TemporaryDirectory() as folder:
        repository = random_repository(Path(folder) / "models", size, precision)
        rows = slides.measure(repository, Path(folder), seconds, slide_seconds, rounds)
    report("stills", rows, out)
