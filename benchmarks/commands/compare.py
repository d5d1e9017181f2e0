"""``python -m benchmarks compare``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import compare as comparison
from benchmarks.compare import HARDWARE, Change
from benchmarks.figures import read_result
from benchmarks.tables import number, split_settings
from sfavivit.utils.text import printable

OTHER_HARDWARE = "these are different machines: the ratios say nothing about the code"
STYLES = {"improved": "green", "worse": "bold red", "same": "dim", "context": "dim"}


def compare(
    old: Annotated[Path, typer.Argument(help="Result of a benchmark.", metavar="OLD.json")],
    new: Annotated[Path, typer.Argument(help="A later one of the same benchmark.", metavar="NEW.json")],
    noise: Annotated[
        float, typer.Option(min=0, help="Share by which runs of one program differ: less is no change.")
    ] = 0.05,
    fail_on_worse: Annotated[bool, typer.Option("--fail-on-worse", help="Then the exit code is 1.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What changed from one result to another beyond the noise (the rule: benchmarks/compare.py)."""
    results = [read_result(path) for path in (old, new)]
    changes = comparison.compare(results[0], results[1], noise)
    differences = comparison.differences(results[0], results[1])
    warning = OTHER_HARDWARE if any(name in HARDWARE for name in differences) else None
    if as_json:
        fields = {
            "benchmark": results[0].benchmark,
            "warning": warning,
            "differences": differences,
            "changes": [asdict(change) | {"ratio": change.ratio} for change in changes],
        }
        print(json.dumps(fields))
    else:
        _show(Console(), changes, differences, warning)
    if fail_on_worse and any(change.verdict == "worse" for change in changes):
        raise typer.Exit(1)


def _show(
    console: Console,
    changes: Sequence[Change],
    differences: Mapping[str, tuple[Any, Any]],
    warning: str | None,
) -> None:
    for name, (one, other) in differences.items():
        console.print(Text(printable(f"{name}: {one} in the old result, {other} in the new one"), "yellow"))
    if warning:
        console.print(Text(f"warning: {warning}", "bold yellow"))
    shared, settings = split_settings([change.case for change in changes])
    if shared:
        console.print(Text(printable(", ".join(f"{name} {value}" for name, value in shared.items()))))
    table = Table(box=None)
    for name in (*settings, "figure"):
        table.add_column(Text(printable(name)))
    for name in ("old", "new", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    for change in changes:
        cells = [str(change.case.get(name, "")) for name in settings]
        cells += [f"{change.figure} ({change.unit})" if change.unit else change.figure]
        cells += ["" if value is None else number(value) for value in (change.old, change.new)]
        cells += ["" if change.ratio is None else f"{change.ratio:.3f}", change.verdict]
        table.add_row(*(Text(printable(cell)) for cell in cells), style=STYLES.get(change.verdict))
    console.print(table)
    counts = Counter(change.verdict for change in changes)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no figures")
