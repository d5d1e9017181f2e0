"""``python -m benchmarks limit``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import ModelsFolder, Out, Rounds, Size
from benchmarks.figures import RESULTS, report


def limit(
    size: Size = "B",
    precision: Annotated[
        list[str] | None, typer.Option(help="Of the engine, repeatable (default: fp32 and int8).")
    ] = None,
    chunk_tubelets: Annotated[int, typer.Option(min=1, help="Tubelets of an engine call.")] = 4,
    rounds: Rounds = 5,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """How fast this machine multiplies matrices, and how much of that the spatial engine reaches."""
    from benchmarks import limit as limits  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as scratch:
        folder = (models or Path(scratch)) / size
        rows = limits.measure(size, precision or limits.PRECISIONS, chunk_tubelets, rounds, folder)
    report("limit", rows, out)
