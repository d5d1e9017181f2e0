"""``python -m benchmarks parts``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Out, Rounds
from benchmarks.figures import RESULTS, report


def parts(
    repository: ModelRepository = DEMO_MODEL,
    seconds: Annotated[int, typer.Option(min=20, help="Of the video, a multiple of 20.")] = 300,
    count: Annotated[int, typer.Option("--parts", min=1, help="Of 1 to 8 seconds, anywhere.")] = 32,
    rounds: Rounds = 3,
    out: Out = RESULTS,
) -> None:
    """Parts of a long video, each decoded or a slice of the whole video's stored features."""
    from benchmarks import parts as costs  # noqa: PLC0415 - needs pyarrow

    with TemporaryDirectory() as folder:
        rows = costs.measure(repository, Path(folder), seconds, count, rounds)
    report("parts", rows, out)
