"""``python -m benchmarks long``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import Name, Out, Rounds, Size, SpatialPrecision
from benchmarks.figures import RESULTS, report


def long(
    overlap: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Of a window with the next; repeatable (default: 0, 0.5, 0.75, 0.875)."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Of video.")] = 120.0,
    rounds: Rounds = 4,
    size: Size = "tiny",
    precision: SpatialPrecision = "fp32",
    frames: Annotated[int, typer.Option(min=2, help="Of a window.")] = 128,
    name: Name = "long",
    out: Out = RESULTS,
) -> None:
    """Overlapping windows: each tubelet once, against recomputing every window."""
    from benchmarks import long as longs  # noqa: PLC0415 - needs torch
    from benchmarks.models import random_repository  # noqa: PLC0415 - as above

    with TemporaryDirectory() as folder:
        repository = random_repository(Path(folder) / "models", size, precision, frames=frames)
        rows = longs.measure(repository, Path(folder), overlap or [0, 0.5, 0.75, 0.875], seconds, rounds)
    report(name, rows, out)
