"""Comparison of two results of a benchmark: changes beyond the noise, by the rule in docs/benchmarks.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import mannwhitneyu  # type: ignore[import-untyped]

from benchmarks.figures import Case, Figure, Result, Row, number, read_result, split_settings
from sfavivit.errors import UsageError
from sfavivit.utils.text import printable

MIN_SAMPLES = 4
SIGNIFICANCE = 0.05
HARDWARE = ("processor", "cores", "gpu")
OTHER_HARDWARE = "these are different machines: the ratios say nothing about the code"
STYLES = {"improved": "green", "worse": "bold red", "same": "dim", "context": "dim"}
_OF_EACH_RUN = ("date", "commit")

Verdict = Literal["improved", "worse", "same", "context", "only in old", "only in new"]
_CaseKey = tuple[tuple[str, str | int | float | bool], ...]


def command(
    old: Annotated[Path, typer.Argument(help="Result of a benchmark.", metavar="OLD.json")],
    new: Annotated[Path, typer.Argument(help="Later result of the same benchmark.", metavar="NEW.json")],
    noise: Annotated[
        float, typer.Option(min=0, help="Relative difference of two runs of one program; less is no change.")
    ] = 0.05,
    fail_on_worse: Annotated[
        bool, typer.Option("--fail-on-worse", help="Exit with code 1 if a figure is worse.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the changes from one result to another beyond the noise (docs/benchmarks.md has the rule)."""
    results = [read_result(path) for path in (old, new)]
    changes = compare(results[0], results[1], noise)
    differing = differences(results[0], results[1])
    warning = OTHER_HARDWARE if any(name in HARDWARE for name in differing) else None
    if as_json:
        fields = {
            "benchmark": results[0].benchmark,
            "warning": warning,
            "differences": differing,
            "changes": [asdict(change) | {"ratio": change.ratio} for change in changes],
        }
        print(json.dumps(fields))
    else:
        _show(Console(), changes, differing, warning)
    if fail_on_worse and any(change.verdict == "worse" for change in changes):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Change:
    """A figure of a case in two results: its medians in ``unit``, ``None`` where a result lacks it.

    "context" is the verdict on a figure without a direction of improvement, such as the number of requests in
    a run of fixed time.
    """

    case: Case
    figure: str
    unit: str
    old: float | None
    new: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """New over old; ``None`` where one is missing or the old is 0."""
        return self.new / self.old if self.old and self.new is not None else None


def compare(old: Result, new: Result, noise: float = 0.05) -> list[Change]:
    """Return every figure of every case: those of ``old`` in its order, then those that only ``new`` has.

    Raises:
        UsageError: results of different benchmarks, or that contradict themselves or each other.
    """
    if old.benchmark != new.benchmark:
        raise UsageError(f"a result of {old.benchmark!r} cannot be compared with one of {new.benchmark!r}")
    before, after = _by_case(old, "old"), _by_case(new, "new")
    changes = []
    for key, row in (before | after).items():
        figures, others = (rows[key].figures if key in rows else {} for rows in (before, after))
        for name in figures | others:
            changes.append(_change(row.case, name, figures.get(name), others.get(name), noise))
    return changes


def differences(old: Result, new: Result) -> dict[str, tuple[Any, Any]]:
    """Return what differs in machine, versions and command: name -> its value in ``old`` and in ``new``."""
    one, other = _facts(old), _facts(new)
    return {
        name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)
    }


def _change(case: Case, name: str, old: Figure | None, new: Figure | None, noise: float) -> Change:
    known = old or new
    assert known
    if old and new and (old.unit, old.better) != (new.unit, new.better):
        one, other = (f"in {figure.unit!r} ({figure.better} is better)" for figure in (old, new))
        raise UsageError(f"figure {name!r} of {case} is {one} in the old result, {other} in the new one")
    before, after = (figure.median if figure else None for figure in (old, new))
    return Change(case, name, known.unit, before, after, _verdict(old, new, noise))


def _verdict(old: Figure | None, new: Figure | None, noise: float) -> Verdict:
    if old is None or new is None:
        return "only in old" if old else "only in new"
    if old.better == "neither":
        return "context"
    rise = new.median - old.median
    if abs(rise) <= noise * min(abs(old.median), abs(new.median)) or not _apart(old.samples, new.samples):
        return "same"
    return "improved" if (rise > 0) == (old.better == "higher") else "worse"


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    if min(len(one), len(other)) < MIN_SAMPLES:
        return max(one) < min(other) or max(other) < min(one)
    return float(mannwhitneyu(one, other).pvalue) < SIGNIFICANCE


def _by_case(result: Result, which: str) -> dict[_CaseKey, Row]:
    rows: dict[_CaseKey, Row] = {}
    for row in result.rows:
        key = tuple(sorted(row.case.items()))
        if key in rows:
            raise UsageError(f"the {which} result has two rows of one case, {row.case}; measure again")
        rows[key] = row
    return rows


def _facts(result: Result) -> dict[str, Any]:
    facts = {"command": result.command}
    for name, value in result.machine.items():
        if isinstance(value, dict):
            facts |= {f"{name} {key}": item for key, item in value.items()}
        elif name not in _OF_EACH_RUN:
            facts[name] = value
    return facts


def _show(
    console: Console,
    changes: Sequence[Change],
    differing: Mapping[str, tuple[Any, Any]],
    warning: str | None,
) -> None:
    for name, (one, other) in differing.items():
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
