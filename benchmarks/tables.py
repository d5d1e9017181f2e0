"""Results as Markdown: docs/benchmarks.md, of which the committed results are the only source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.figures import Case, Figure, Result, Row
from sfavivit.utils.text import printable

# Ways to do the same work. Rows that differ in these alone are rivals, of which one is the best.
WAYS = (
    "way",
    "engine",
    "model",
    "mode",
    "precision",
    "chunk",
    "name",
    "variant",
    "stages",
    "transport",
    "selector",
)
# A setting that names a part of some work, and its value for the whole: parts are columns of their whole.
PART, WHOLE = "stage", "total"
LONG_TABLE_ROWS = 16


def page(results: Mapping[str, Result], pictures: Mapping[str, str]) -> str:
    """The whole file. ``results``: by the name of their files; ``pictures``: paths of their charts."""
    parts = [
        "# Benchmarks",
        "Made by `python -m benchmarks charts` from the files in `benchmarks/results`; do not edit.\n"
        "Medians, with the range of the repeats; of the rows that do the same work in several ways, the best "
        "is bold. Of a part of some work only its first figure is shown.",
    ]
    for name, result in results.items():
        parts += [f"## {_cell(name)}", _origin(name, result)]
        if name in pictures:
            parts.append(f"![{_cell(name)}]({pictures[name]})")
        parts += [table(rows) for rows in _kinds(_parts_as_columns(result.rows))]
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
    units: dict[str, list[str]] = {}
    for row in rows:
        for name, figure in row.figures.items():
            units.setdefault(name, []).append(figure.unit)
    several = {name for name, all_ in units.items() if len(set(all_)) > 1}
    heads = [name if name in several else label(name, all_[0]) for name, all_ in units.items()]
    lines = [[*settings, *heads], ["---"] * len(settings) + ["---:"] * len(units)]
    best = {name: best_rows(rows, name) for name in units}
    for row in rows:
        cells = [str(row.case.get(name, "")) for name in settings]
        for name in units:
            text = ""
            if found := row.figures.get(name):
                text = _median_and_range(found, any(row is one for one in best[name]))
                text += f" {found.unit}" if name in several else ""
            cells.append(text)
        lines.append(cells)
    text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    if len(rows) > LONG_TABLE_ROWS:
        text = f"<details><summary>{len(rows)} rows</summary>\n\n{text}\n\n</details>"
    return f"All rows: {describe_case(shared)}.\n\n{text}" if shared else text


def label(name: str, unit: str) -> str:
    """``latency p50 (ms)``, ``tubelets/s``."""
    if unit.startswith(f"{name}/"):
        return unit
    return name if unit in ("", name) else f"{name} ({unit})"


def describe_case(case: Case) -> str:
    """``engine onnxruntime, size B``."""
    return ", ".join(f"{_cell(name)} {_cell(str(value))}" for name, value in case.items())


def best_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """Of each group of rivals, those with the best median of a figure; none where all are the same."""
    groups: dict[tuple[object, ...], list[tuple[Figure, Row]]] = {}
    for row in rows:
        figure = row.figures.get(name)
        if figure and figure.better != "neither":
            groups.setdefault((figure.unit, *_without(WAYS, row.case)), []).append((figure, row))
    best = []
    for group in groups.values():
        medians = [figure.median for figure, _ in group]
        first = max(medians) if group[0][0].better == "higher" else min(medians)
        if len(set(medians)) > 1:
            best += [row for figure, row in group if figure.median == first]
    return best


def _parts_as_columns(rows: Sequence[Row]) -> list[Row]:
    """The first figure of each part in the row of its whole, where there is one."""
    wholes = {_work(row): dict(row.figures) for row in rows if row.case.get(PART) == WHOLE}
    left = []
    for row in rows:
        part, whole = row.case.get(PART, WHOLE), wholes.get(_work(row))
        if whole is None or part == WHOLE:
            left.append(row)
        elif row.figures:
            name, figure = next(iter(row.figures.items()))
            whole[f"{part} {name}"] = figure
    return [Row(row.case, wholes[_work(row)]) if row.case.get(PART) == WHOLE else row for row in left]


def _work(row: Row) -> tuple[tuple[str, object], ...]:
    return _without((PART,), row.case)


def _without(names: Sequence[str], case: Case) -> tuple[tuple[str, object], ...]:
    """The other settings, to group rows by."""
    return tuple(sorted((name, value) for name, value in case.items() if name not in names))


def _kinds(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows with the same settings' names are of one table, unless each has figures that the other lacks."""
    kinds: list[tuple[set[str], set[str], list[Row]]] = []
    for row in rows:
        settings, figures = set(row.case), set(row.figures)
        for known_settings, known_figures, kind in kinds:
            if settings == known_settings and (figures <= known_figures or known_figures <= figures):
                known_figures.update(figures)
                kind.append(row)
                break
        else:
            kinds.append((settings, figures, [row]))
    return [kind for *_, kind in kinds]


def _origin(name: str, result: Result) -> str:
    processor, cores, commit, date = (
        _cell(str(result.machine.get(name, "unknown"))) for name in ("processor", "cores", "commit", "date")
    )
    file = f"[file](../benchmarks/results/{name}.json)"
    return f"`{_cell(result.command)}` · {processor}, {cores} cores · commit {commit} · {date[:10]} · {file}"


def _median_and_range(figure: Figure, is_best: bool) -> str:
    median, low, high = (number(one) for one in (figure.median, min(figure.samples), max(figure.samples)))
    return (f"**{median}**" if is_best else median) + ("" if low == high else f" ({low}–{high})")


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
