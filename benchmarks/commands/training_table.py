"""``python -m benchmarks training-table``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import Out
from benchmarks.figures import RESULTS, report
from benchmarks.machine import ROOT
from benchmarks.training_scale import Scale


def training_table(
    work: Annotated[
        Path, typer.Option(help="Folder for runs and costs; what is there is not measured again.")
    ] = ROOT / "runs" / "training-table",
    seeds: Annotated[int, typer.Option(min=0, help="To train with; 0: only make the table.")] = 3,
    costs: Annotated[
        bool, typer.Option("--costs", help="Measure an epoch of each kind in place of training.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of costs.")] = 5,
    training: Annotated[int, typer.Option(min=8, help="Videos to learn from.")] = Scale.training,
    held_out: Annotated[int, typer.Option(min=1, help="Videos to judge by.")] = Scale.held_out,
    epochs: Annotated[int, typer.Option(min=1, help="On 128 frames (the paper: 30).")] = Scale.epochs,
    short_epochs: Annotated[
        int, typer.Option(min=1, help="On 8 frames; a third of them where the paper has 10.")
    ] = Scale.short_epochs,
    short_rate: Annotated[float, typer.Option(help="Peak learning rate on 8 frames.")] = Scale.short_rate,
    full_rate: Annotated[float, typer.Option(help="Of the whole model on 128 frames.")] = Scale.full_rate,
    frozen_rate: Annotated[float, typer.Option(help="Of what is not frozen.")] = Scale.frozen_rate,
    pictures: Annotated[int, typer.Option(min=64, help="That the image model learns from.")] = Scale.pictures,
    image_epochs: Annotated[int, typer.Option(min=1, help="On pictures.")] = Scale.image_epochs,
    validation: Annotated[
        bool, typer.Option("--validation", help="Choose settings: other seeds, and videos not held out.")
    ] = False,
    out: Out = RESULTS,
) -> None:
    """The paper's table on synthetic videos whose class is the order of two events, and which claims hold."""
    from benchmarks import training_claims, training_table  # noqa: PLC0415 - needs torch
    from training.progress import say  # noqa: PLC0415 - as above

    scale = Scale(
        training=training,
        held_out=held_out,
        epochs=epochs,
        short_epochs=short_epochs,
        short_rate=short_rate,
        full_rate=full_rate,
        frozen_rate=frozen_rate,
        pictures=pictures,
        image_epochs=image_epochs,
        validation=validation,
    )
    table = training_table.TrainingTable(work, scale)
    if costs:
        table.measure_costs(rounds, say)
    else:
        for seed in table.seeds(seeds):
            table.train(seed, say)
    report(
        "training_table",
        training_claims.table_rows(table),
        work if validation else out,
        command=_command(scale),
    )


def _command(scale: Scale) -> str:
    """Both passes; what is as usual is left out."""
    usual = asdict(Scale())
    changed = {name: value for name, value in asdict(scale).items() if value != usual[name]}
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    passes = [f"python -m benchmarks training-table{options}{option}" for option in ("", " --costs")]
    return " && ".join(passes)
