"""``python -m benchmarks outliers``."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.commands.options import Out, Rounds, Size
from benchmarks.figures import RESULTS, report


def outliers(
    size: Size = "B",
    tubelets: Annotated[int, typer.Option(min=1, help="To compare the features of.")] = 8,
    rounds: Rounds = 2,
    out: Out = RESULTS,
) -> None:
    """What outlier channels cost int8 features: as trained, with the residual stream turned, calibrated."""
    from benchmarks import outliers as channels  # noqa: PLC0415 - needs torch

    report("outliers", channels.measure(size, tubelets, rounds), out)
