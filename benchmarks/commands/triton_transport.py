"""``python -m benchmarks triton-transport``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import Out, Rounds
from benchmarks.figures import RESULTS, report


def triton_transport(
    requests: Annotated[int, typer.Option(min=8, help="Requests of each round.")] = 160,
    rounds: Rounds = 3,
    out: Out = RESULTS,
) -> None:
    """Frames to Triton: inside the gRPC message against system shared memory."""
    from benchmarks import triton_transport as transport  # noqa: PLC0415 - needs torch and Triton

    with TemporaryDirectory() as folder:
        rows = transport.measure(Path(folder), requests, rounds)
    report("triton_transport", rows, out)
