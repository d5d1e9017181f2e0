"""``python -m benchmarks training-table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures import RESULTS, report
from benchmarks.machine import ROOT


def training_table(
    work: Annotated[
        Path, typer.Option(help="Folder for runs and costs; what is there is not measured again.")
    ] = ROOT / "runs" / "training-table",
    seeds: Annotated[int, typer.Option(min=0, help="To train with; 0: only make the table.")] = 3,
    costs: Annotated[
        bool, typer.Option("--costs", help="Measure an epoch of each kind in place of training.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of costs.")] = 5,
    training: Annotated[int, typer.Option(min=8, help="Videos to learn from.")] = 400,
    held_out: Annotated[int, typer.Option(min=1, help="Videos to judge by.")] = 200,
    epochs: Annotated[int, typer.Option(min=1, help="On 128 frames (the paper: 30).")] = 12,
    short_epochs: Annotated[
        int, typer.Option(min=1, help="On 8 frames; a third of them where the paper has 10.")
    ] = 12,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """The paper's table on synthetic videos whose class is the order of two events, and which claims hold."""
    from benchmarks import training_claims, training_table  # noqa: PLC0415 - needs torch
    from benchmarks.long_order_training import Scale  # noqa: PLC0415 - as above
    from training.watch import say  # noqa: PLC0415 - as above

    table = training_table.TrainingTable(work, Scale(training, held_out, epochs, short_epochs))
    if costs:
        table.measure_costs(rounds, say)
    else:
        for seed in range(seeds):
            table.train(seed, say)
    rows = training_claims.table_rows(table)
    scale = f"--training {training} --held-out {held_out} --epochs {epochs} --short-epochs {short_epochs}"
    passes = [f"python -m benchmarks training-table {scale}{option}" for option in ("", " --costs")]
    report("training_table", rows, " && ".join(passes), out)
