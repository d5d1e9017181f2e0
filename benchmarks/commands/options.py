"""Options that several commands have, with one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import ROOT
from sfavivit.config import HYBRIDS, SIZES
from sfavivit.repository.manifest import Precision

DEMO_MODEL = ROOT / "model_repository"
SIZE_NAMES = ", ".join((*SIZES, *HYBRIDS))

Out = Annotated[Path, typer.Option(help="Folder for the result.")]
Name = Annotated[str, typer.Option(help="Of the result, where it is for other models or settings.")]
Rounds = Annotated[int, typer.Option(min=1, help="In which the alternatives take turns.")]
Seed = Annotated[int, typer.Option(help="The same seed, the same random choices.")]
ModelRepository = Annotated[Path, typer.Option(help="Model repository.")]
ModelsFolder = Annotated[
    Path | None, typer.Option(help="Folder to keep the models in, to be used again (default: made again).")
]
TrainingVideos = Annotated[int, typer.Option(min=10, help="Videos to learn from.")]
HeldOutVideos = Annotated[int, typer.Option(min=5, help="Videos to judge by.")]
Size = Annotated[str, typer.Option(help=f"Of the model: {SIZE_NAMES}.")]
SpatialPrecision = Annotated[Precision, typer.Option(help="Of the spatial engine.")]
