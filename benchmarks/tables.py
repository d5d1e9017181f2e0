"""Rows of results as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Case, Figure, Row


def split_settings(cases: Sequence[Case]) -> tuple[Case, list[str]]:
    """Return the settings that all cases share, and the names of the others, in their order."""
    names = dict.fromkeys(name for case in cases for name in case)
    shared = {
        name: cases[0][name]
        for name in names
        if all(name in case and case[name] == cases[0][name] for case in cases)
    }
    return shared, [name for name in names if name not in shared]


def number(value: float) -> str:
    """Return three digits, or all digits of a larger number before the point: 0.0123, 4.57, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def label(name: str, unit: str) -> str:
    """Return a figure's name with its unit, such as ``latency p50 (ms)`` or ``tubelets/s``."""
    if unit.startswith(f"{name}/"):
        return unit
    return name if unit in ("", name) else f"{name} ({unit})"


def table(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Return a Markdown table with a column for each setting that varies and each figure of ``names``.

    Without ``names`` it has all figures. Figures are medians, with the range of the samples in parentheses.
    """
    _, settings = split_settings([row.case for row in rows])
    units = {name: figure.unit for row in rows for name, figure in row.figures.items()}
    shown = [name for name in names or units if name in units]
    lines = [[*settings, *(label(name, units[name]) for name in shown)]]
    lines.append(["---"] * len(settings) + ["---:"] * len(shown))
    for row in rows:
        settled = [str(row.case.get(name, "")) for name in settings]
        lines.append([*settled, *(_cell(row.figures.get(name)) for name in shown)])
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    median, low, high = (number(one) for one in (figure.median, min(figure.samples), max(figure.samples)))
    return median if low == high else f"{median} ({low}–{high})"
