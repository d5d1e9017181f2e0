"""Command-line options that several benchmarks share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures import ROOT
from sfavivit.config import HYBRIDS, SIZES
from sfavivit.errors import UsageError
from sfavivit.repository.manifest import Precision

DEMO_MODEL = ROOT / "model_repository"
SIZE_NAMES = ", ".join((*SIZES, *HYBRIDS))

Floats = list[float] | None
Ints = list[int] | None
Names = list[str] | None

Out = Annotated[Path, typer.Option(help="Folder for the result.")]
Name = Annotated[str, typer.Option(help="Name of the result file, to keep results of other settings apart.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds, in each of which every alternative runs once.")]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.")]
ModelRepository = Annotated[Path, typer.Option(help="Model repository.")]
ModelsFolder = Annotated[
    Path | None, typer.Option(help="Folder that keeps the models for later runs (default: none is kept).")
]
TrainingVideos = Annotated[int, typer.Option(min=10, help="Number of training videos.")]
HeldOutVideos = Annotated[int, typer.Option(min=5, help="Number of held-out videos.")]
Size = Annotated[str, typer.Option(help=f"Model size: {SIZE_NAMES}.")]
SpatialPrecision = Annotated[Precision, typer.Option(help="Precision of the spatial engine.")]


def check_known(what: str, names: Iterable[str] | None, known: Iterable[str]) -> None:
    """Raise ``UsageError`` for an unknown name."""
    if unknown := set(names or ()) - set(known):
        raise UsageError(f"unknown {what} {min(unknown)!r}; choose one of {', '.join(known)}")
