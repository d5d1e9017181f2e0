"""``python -m benchmarks scoring``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import Out
from benchmarks.figures import RESULTS, report


def scoring(
    repository: Annotated[
        Path | None, typer.Option(help="Model repository with two heads (default: one of size B is made).")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Clips of ten seconds.")] = 4,
    view_videos: Annotated[int, typer.Option(min=1, help="Of those, how many are scored in many views.")] = 1,
    out: Out = RESULTS,
) -> None:
    """What scoring costs from videos, from the feature store, with a second head, in many views."""
    from benchmarks import scoring as costs  # noqa: PLC0415 - needs pyarrow
    from benchmarks.models import random_repository  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        models = repository or random_repository(Path(folder) / "models", "B", "int8", heads=2)
        rows = costs.measure(models, Path(folder), videos, min(view_videos, videos))
    report("scoring", rows, out)
