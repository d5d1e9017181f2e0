"""``python -m benchmarks``: measurements with committed results."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks import memory as memory_benchmark
from benchmarks.commands import latency, load, long, parts
from benchmarks.figures import RESULTS
from sfavivit.app import run_app

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """Measure this system; results are JSON files in benchmarks/results."""


@app.command()
def memory(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = parts.MODELS,
    seconds: Annotated[
        list[int] | None,
        typer.Option(help="Length of a video, a multiple of 10; repeatable (default: 10, 600, 3600)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """Peak memory against the length of the video."""
    with TemporaryDirectory() as folder:
        results = memory_benchmark.measure(repository, seconds or [10, 600, 3600], Path(folder))
    parts.report_rows("memory", memory_benchmark.rows(results), out)


app.command("latency")(latency.latency)
app.command("load")(load.load)
app.command("long")(long.long)
app.command("picture")(parts.picture)
app.command("triton-transport")(parts.triton_transport)
app.command("fuzz")(parts.fuzz)
app.command("service")(parts.service)
app.command("scoring")(parts.scoring)
app.command("resume")(parts.resume)
app.command("new-head")(parts.new_head)
app.command("selection")(parts.selection)


if __name__ == "__main__":
    run_app(app)
