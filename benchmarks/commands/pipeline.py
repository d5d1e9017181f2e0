"""``python -m benchmarks pipeline``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, Out, Rounds, SpatialPrecision
from benchmarks.figures import RESULTS, report


def pipeline(
    repository: Annotated[
        Path, typer.Option(help="Model repository of which decoding is the larger part.")
    ] = DEMO_MODEL,
    seconds: Annotated[float, typer.Option(min=1, help="Of its video.")] = 60.0,
    size: Annotated[str, typer.Option(help="Of a model of which inference is the larger part.")] = "B",
    precision: SpatialPrecision = "int8",
    size_seconds: Annotated[float, typer.Option(min=1, help="Of its video.")] = 16.0,
    picture: Annotated[str, typer.Option(help="WIDTHxHEIGHT of both videos.")] = "640x360",
    rounds: Rounds = 5,
    out: Out = RESULTS,
) -> None:
    """Classifying against the larger of decoding alone and inference alone."""
    from benchmarks import pipeline as overlap  # noqa: PLC0415 - needs torch, as the next
    from benchmarks.models import random_repository  # noqa: PLC0415

    with TemporaryDirectory() as name:
        folder = Path(name)
        large = random_repository(folder / "models", size, precision)
        rows = [
            overlap.measure(model, models, folder, video_seconds=length, picture=picture, rounds=rounds)
            for model, models, length in (
                (repository.name, repository, seconds),
                (f"{size} {precision}", large, size_seconds),
            )
        ]
    report("pipeline", rows, out)
