"""``python -m benchmarks pipeline``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.figures import RESULTS, report
from benchmarks.machine import ROOT
from sfavivit.repository import Precision


def pipeline(
    repository: Annotated[
        Path, typer.Option(help="Model repository of which decoding is the larger part.")
    ] = ROOT / "model_repository",
    seconds: Annotated[float, typer.Option(min=1, help="Of its video.")] = 60.0,
    size: Annotated[str, typer.Option(help="Of a model of which inference is the larger part.")] = "B",
    precision: Annotated[Precision, typer.Option(help="Of its spatial engine.")] = "int8",
    size_seconds: Annotated[float, typer.Option(min=1, help="Of its video.")] = 16.0,
    picture: Annotated[str, typer.Option(help="WIDTHxHEIGHT of both videos.")] = "640x360",
    rounds: Annotated[int, typer.Option(min=1, help="In which the alternatives take turns.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
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
    report("pipeline", rows, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), out)
