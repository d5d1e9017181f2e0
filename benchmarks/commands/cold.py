"""``python -m benchmarks cold``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Out
from benchmarks.figures import RESULTS, report
from sfavivit.repository.manifest import Repository


def cold(
    repository: ModelRepository = DEMO_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each kind.")] = 10,
    out: Out = RESULTS,
) -> None:
    """From the start of a fresh process to its answer for a clip of two seconds."""
    from benchmarks import cold as processes  # noqa: PLC0415 - loads the recognizer

    Repository.load(repository)  # what is wrong with it is said here, not by a process
    with TemporaryDirectory() as folder:
        rows = processes.measure(repository, Path(folder), rounds)
    report("cold", rows, out)
