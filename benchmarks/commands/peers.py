"""``python -m benchmarks peers``."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.commands.options import ModelsFolder, Out, Rounds
from benchmarks.figures import RESULTS, report
from sfavivit.config import SIZES
from sfavivit.errors import UsageError


def peers(
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL/MODE/PRECISION, repeatable, such as pytorch/compile/bf16 (default: sfavivit in fp32 "
            "and int8; OpenVINO, likewise; plain PyTorch eager and compiled, in fp32 and bf16; Hugging "
            "Face's three in fp32)."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help=f"Of all models: {', '.join(SIZES)}.")] = "B",
    frames: Annotated[int, typer.Option(help="Of a clip; Hugging Face's models have their own.")] = 16,
    rounds: Rounds = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each (default: all cores).")] = None,
    patience_seconds: Annotated[
        float, typer.Option(help="A clip predicted to take longer is not run; its row is the prediction.")
    ] = 60.0,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """This system against the same model in OpenVINO and plain PyTorch, and Hugging Face's video models."""
    from benchmarks import peers as systems  # noqa: PLC0415 - needs torch
    from benchmarks.peer_process import Peer, Settings  # noqa: PLC0415 - with it

    if size not in SIZES:
        raise UsageError(f"unknown size {size!r} of peers, which are plain ViTs; known: {', '.join(SIZES)}")
    asked = [Peer.parse(name) for name in peer] if peer else systems.DEFAULT_PEERS
    with TemporaryDirectory() as scratch:
        folder = (models or Path(scratch)) / f"{size}-{frames}"
        cores = threads or len(os.sched_getaffinity(0))
        settings = Settings(size, frames, cores, patience_seconds, folder)
        measured = systems.measure(asked, settings, rounds)
    report("peers", measured, out)
