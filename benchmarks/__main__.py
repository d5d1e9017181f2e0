"""``python -m benchmarks``: measurements with committed results."""

from __future__ import annotations

import typer

from benchmarks.commands import (
    capacity,
    charts,
    cold,
    compare,
    gpu,
    latency,
    limit,
    load,
    long,
    memory,
    parts,
    peers,
    pipeline,
    precision,
    training_table,
)
from sfavivit.app import run_app

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """Measure this system; results are JSON files in benchmarks/results."""


app.command("cold")(cold.cold)
app.command("charts")(charts.charts)
app.command("compare")(compare.compare)
app.command("capacity")(capacity.capacity)
app.command("gpu")(gpu.gpu)
app.command("latency")(latency.latency)
app.command("limit")(limit.limit)
app.command("load")(load.load)
app.command("long")(long.long)
app.command("memory")(memory.memory)
app.command("peers")(peers.peers)
app.command("pipeline")(pipeline.pipeline)
app.command("precision")(precision.precision)
app.command("picture")(parts.picture)
app.command("training-table")(training_table.training_table)
app.command("triton-transport")(parts.triton_transport)
app.command("fuzz")(parts.fuzz)
app.command("service")(parts.service)
app.command("scoring")(parts.scoring)
app.command("resume")(parts.resume)
app.command("new-head")(parts.new_head)
app.command("selection")(parts.selection)


if __name__ == "__main__":
    run_app(app)
