"""``python -m benchmarks cold``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.figures import RESULTS, report
from benchmarks.machine import ROOT
from sfavivit.repository import Repository


def cold(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = ROOT / "model_repository",
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each kind.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """From the start of a fresh process to its answer for a clip of two seconds."""
    from benchmarks import cold as processes  # noqa: PLC0415 - loads the recognizer

    Repository.load(repository)  # what is wrong with it is said here, not by a process
    with TemporaryDirectory() as folder:
        rows = processes.measure(repository, Path(folder), rounds)
    report("cold", rows, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), out)
