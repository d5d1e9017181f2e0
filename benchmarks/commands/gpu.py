"""``python -m benchmarks gpu``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.commands.options import ModelsFolder, Out, Rounds
from benchmarks.figures import RESULTS, report


def gpu(
    engine: Annotated[
        list[str] | None, typer.Option(help="torch, onnxruntime or tensorrt; repeatable (default: all).")
    ] = None,
    size: Annotated[list[str] | None, typer.Option(help="Repeatable (default: B, L, H).")] = None,
    chunk_tubelets: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tubelets of a call; repeatable (default: 8, 16, 32, 64, 128)."),
    ] = None,
    rounds: Rounds = 3,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """The spatial engine on an NVIDIA GPU: engines, sizes, chunks, share of the matrix ceiling."""
    from benchmarks import gpu as engines  # noqa: PLC0415 - needs torch

    variants = engines.choose(engine or ["torch", "onnxruntime", "tensorrt"])
    console = Console(stderr=True)
    with TemporaryDirectory() as scratch:
        rows = engines.measure(
            variants,
            size or ["B", "L", "H"],
            chunk_tubelets or [8, 16, 32, 64, 128],
            rounds,
            models or Path(scratch),
            lambda text: console.print(text, highlight=False, markup=False),
        )
    report("gpu", rows, out)
