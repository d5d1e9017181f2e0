"""``python -m benchmarks charts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures import RESULTS, read_result
from benchmarks.machine import ROOT
from sfavivit.errors import UsageError


def charts(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.md and a picture of each.")] = ROOT
    / "docs",
) -> None:
    """Write docs/benchmarks.md, and a chart of each result, from the results."""
    from benchmarks.charts import draw  # noqa: PLC0415 - needs matplotlib
    from benchmarks.tables import page  # noqa: PLC0415
    from sfavivit.reports.files import write_file  # noqa: PLC0415

    shown = {path.stem: read_result(path) for path in sorted(results.glob("*.json"))}
    if not shown:
        raise UsageError(f"{str(results)!r} has no results with figures; run a benchmark first")
    pictures = {}
    for name, result in shown.items():
        try:
            picture = draw(result)
        except UsageError as error:
            typer.echo(f"no chart: {error}", err=True)
            continue
        if picture:
            pictures[name] = f"benchmark_{name}.png"
            write_file(out / pictures[name], picture)
    write_file(out / "benchmarks.md", page(shown, pictures).encode())
