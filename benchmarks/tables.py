"""Results as Markdown: docs/benchmarks.md, of which the committed results are the only source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.figures import Case, Figure, Result, Row
from sfavivit.app import printable

# How much work is asked for. Rows are rivals, of which one is the best, where these are the same.
WORKLOAD = ("size", "frames", "seconds", "video_seconds", "overlap", "clients", "rate", "streams")


def page(results: Sequence[Result], pictures: Mapping[str, str], without_figures: Sequence[str]) -> str:
    """The whole file. ``pictures``: name of a benchmark -> path of its chart, relative to the file."""
    parts = [
        "# Benchmarks",
        "Made by `python -m benchmarks charts` from the files in `benchmarks/results`; do not edit.\n"
        "Medians, with the range of the repeats; the best of the rows that were asked for the same work is "
        "bold.",
    ]
    for result in results:
        parts += [f"## {_cell(result.benchmark)}", _origin(result)]
        if picture := pictures.get(result.benchmark):
            parts.append(f"![{_cell(result.benchmark)}]({picture})")
        parts.append(table(result.rows))
    if without_figures:
        links = (f"[{name}](../benchmarks/results/{name}.json)" for name in without_figures)
        parts.append("Results of single values, not shown here: " + ", ".join(links) + ".")
    return "\n\n".join(parts) + "\n"


def split_settings(cases: Sequence[Case]) -> tuple[Case, list[str]]:
    """The settings that all cases share, and the names of the others, in their order."""
    names = dict.fromkeys(name for case in cases for name in case)
    shared = {
        name: cases[0][name]
        for name in names
        if len(cases) > 1 and all(name in case and case[name] == cases[0][name] for case in cases)
    }
    return shared, [name for name in names if name not in shared]


def number(value: float) -> str:
    """Three digits, or all those of a whole number: 0.0123, 4.57, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """A column for each setting that varies and for each figure; what all rows share is said above."""
    shared, settings = split_settings([row.case for row in rows])
    figures = {
        (name, figure.unit): best_rows(rows, name) for row in rows for name, figure in row.figures.items()
    }
    heads = [*settings, *(f"{name} ({unit})" if unit else name for name, unit in figures)]
    lines = [heads, ["---"] * len(settings) + ["---:"] * len(figures)]
    for row in rows:
        cells = [str(row.case.get(name, "")) for name in settings]
        for (name, unit), best in figures.items():
            figure = row.figures.get(name)
            text = _median_and_range(figure) if figure and figure.unit == unit else ""
            cells.append(f"**{text}**" if text and any(row is one for one in best) else text)
        lines.append(cells)
    body = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return f"All rows: {describe_case(shared)}.\n\n{body}" if shared else body


def describe_case(case: Case) -> str:
    """``engine onnxruntime, size B``."""
    return ", ".join(f"{_cell(name)} {_cell(str(value))}" for name, value in case.items())


def best_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """The row with the best median of a figure in each group of rivals, if there are rivals."""
    groups: dict[tuple[object, ...], list[tuple[Figure, Row]]] = {}
    for row in rows:
        figure = row.figures.get(name)
        if figure and figure.better != "neither":
            groups.setdefault(tuple(row.case.get(key) for key in WORKLOAD), []).append((figure, row))
    best = []
    for group in groups.values():
        medians = [figure.median for figure, _ in group]
        first = max(medians) if group[0][0].better == "higher" else min(medians)
        if len(group) > 1 and first in medians and len(set(medians)) > 1:
            best += [row for figure, row in group if figure.median == first]
    return best


def _origin(result: Result) -> str:
    processor, cores, commit, date = (
        _cell(str(result.machine.get(name, "unknown"))) for name in ("processor", "cores", "commit", "date")
    )
    return f"`{_cell(result.command)}` · {processor}, {cores} cores · commit {commit} · {date[:10]}"


def _median_and_range(figure: Figure) -> str:
    low, high = number(min(figure.samples)), number(max(figure.samples))
    return number(figure.median) + ("" if low == high else f" ({low}–{high})")


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
