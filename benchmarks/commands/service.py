"""``python -m benchmarks service``."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Name, Out, Rounds
from benchmarks.figures import RESULTS, report


def service(
    seconds: Annotated[float, typer.Option(help="Of video in each stream.")] = 30.0,
    rounds: Rounds = 5,
    repository: ModelRepository = DEMO_MODEL,
    name: Name = "service",
    out: Out = RESULTS,
) -> None:
    """Throughput of the video service against the engine alone."""
    from benchmarks import service as services  # noqa: PLC0415 - needs gRPC

    report(name, services.measure(repository, seconds, rounds), out)
