"""``python -m benchmarks precision``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, Out
from benchmarks.figures import RESULTS, report


def precision(
    videos: Annotated[int, typer.Option(min=1, help="Held-out videos to judge by.")] = 240,
    repository: Annotated[Path, typer.Option(help="The demo model's.")] = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """Top-1 of the demo model at fp32, fp16 and int8 on its held-out videos."""
    from benchmarks import precision as precisions  # noqa: PLC0415 - needs torch
    from training.progress import work_bar  # noqa: PLC0415 - the same

    with TemporaryDirectory() as folder, work_bar("held-out videos", videos) as done:
        rows = precisions.measure(repository, ("fp16", "int8"), videos, Path(folder), done)
    report("precision", rows, out)
