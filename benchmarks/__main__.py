"""``python -m benchmarks``: measurements with committed results."""

from __future__ import annotations

import typer

from benchmarks.commands import (
    capacity,
    charts,
    cold,
    compare,
    fuzz,
    gpu,
    latency,
    limit,
    load,
    long,
    memory,
    new_head,
    outliers,
    parts,
    peers,
    picture,
    pipeline,
    precision,
    resume,
    scoring,
    selection,
    service,
    stills,
    training_table,
    triton_transport,
)
from sfavivit.cli.run import run_app

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """Measure this system; results are JSON files in benchmarks/results."""


app.command("capacity")(capacity.capacity)
app.command("charts")(charts.charts)
app.command("cold")(cold.cold)
app.command("compare")(compare.compare)
app.command("fuzz")(fuzz.fuzz)
app.command("gpu")(gpu.gpu)
app.command("latency")(latency.latency)
app.command("limit")(limit.limit)
app.command("load")(load.load)
app.command("long")(long.long)
app.command("memory")(memory.memory)
app.command("new-head")(new_head.new_head)
app.command("outliers")(outliers.outliers)
app.command("parts")(parts.parts)
app.command("peers")(peers.peers)
app.command("picture")(picture.picture)
app.command("pipeline")(pipeline.pipeline)
app.command("precision")(precision.precision)
app.command("resume")(resume.resume)
app.command("scoring")(scoring.scoring)
app.command("selection")(selection.selection)
app.command("service")(service.service)
app.command("stills")(stills.stills)
app.command("training-table")(training_table.training_table)
app.command("triton-transport")(triton_transport.triton_transport)


if __name__ == "__main__":
    run_app(app)
