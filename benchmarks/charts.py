"""The page docs/benchmarks.md and its charts, generated from page.md and the committed results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.figures import RESULTS, ROOT, Figure, Result, Row, label, number, read_result, table
from sfavivit.errors import UsageError
from sfavivit.reports.files import write_file

PLACEHOLDER = re.compile(r"\{(source|table) (\w+)(?:: ([^|}]*\w))?(?: \| ([^}]*))?\}")
"""``{source RESULT}`` or ``{table RESULT: FIGURE; FIGURE | SETTING=VALUE, SETTING=VALUE}``."""

Series = dict[str, list[tuple[float, Figure]]]
"""Name of a line -> its points: a place on the x axis, and the figure there."""


def command(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.md and its charts.")] = ROOT / "docs",
) -> None:
    """Write docs/benchmarks.md and its charts from the results."""
    found = {path.stem: read_result(path) for path in sorted(results.glob("*.json"))}
    template = (Path(__file__).parent / "page.md").read_text()
    write_file(out / "benchmarks.md", page(template, found).encode())
    for name in CHARTS:
        write_file(out / f"benchmark_{name}.png", plot(name, found[name]))


def page(template: str, results: Mapping[str, Result]) -> str:
    """Return a page in Markdown with each ``PLACEHOLDER`` replaced.

    ``results``: by the names of their files.

    Raises:
        UsageError: there is no such result, or it has no such rows.
    """

    def filled(found: re.Match[str]) -> str:
        kind, name, figures, settings = found.groups(default="")
        if name not in results:
            raise UsageError(f"the page shows the result {name!r}, which does not exist; measure it again")
        if kind == "source":
            return f"`{results[name].command}` (`{name}.json`)"
        names = [figure for figure in figures.split("; ") if figure]
        wanted = dict(setting.split("=") for setting in settings.split(", ") if setting)
        rows = [row for row in results[name].rows if _is_shown(row, names, wanted)]
        if not rows:
            raise UsageError(f"the page shows {found[0]}, but {name!r} has no such rows; measure it again")
        return table(rows, names)

    return PLACEHOLDER.sub(filled, template)


def _is_shown(row: Row, names: Sequence[str], wanted: Mapping[str, str]) -> bool:
    settings = {name: str(value) for name, value in row.case.items()}
    return wanted.items() <= settings.items() and set(names) <= row.figures.keys()


def plot(name: str, result: Result) -> bytes:
    """Return the chart of ``CHARTS`` called ``name`` for a result, as PNG.

    Raises:
        UsageError: the result lacks a setting or a figure that its chart shows.
    """
    with style.context("default"):  # whatever the user has configured
        picture = Picture(figsize=(9, 4), dpi=100, layout="constrained")
        axes = picture.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dde2e8", lw=0.8)
        axes.set_axisbelow(True)
        try:
            CHARTS[name](axes, result.rows)
        except KeyError as error:
            raise UsageError(
                f"the chart of {name!r} shows {error}, which a row does not have; measure again"
            ) from error
        buffer = BytesIO()
        picture.savefig(buffer, format="png", metadata={"Software": None})  # without the library's version
    return buffer.getvalue()


def _peers(axes: Axes, rows: Sequence[Row]) -> None:
    bars = []
    for row in sorted(rows, key=lambda row: -row.figures["throughput"].median):
        name = "{model} {mode}, {precision}".format_map(row.case) + ", predicted" * bool(
            row.case["predicted"]
        )
        bars.append((name, row.figures["throughput"], row.case["model"] == "sfavivit"))
    _bars(axes, bars)


def _limit(axes: Axes, rows: Sequence[Row]) -> None:
    bars = []
    compared = [row for row in rows if row.case["what"] != "operator"]
    for row in sorted(compared, key=lambda row: (str(row.case["precision"]), str(row.case["what"]))):
        ours = row.case["what"] == "spatial engine"
        name = "{precision}, our spatial engine" if ours else "{precision}, {name}"
        bars.append((name.format_map(row.case), row.figures["rate" if ours else "all layers"], ours))
    _bars(axes, bars)


def _latency(axes: Axes, rows: Sequence[Row]) -> None:
    clips = [row for row in rows if (row.case["work"], row.case["stage"]) == ("clip", "total")]
    series = _series(clips, "size {size}, {precision}", "p50", lambda row: float(row.case["frames"]))
    _lines(axes, series, "frames in the clip", "latency of a clip")


def _load(axes: Axes, rows: Sequence[Row]) -> None:
    series: Series = {}
    for percentile in ("p99", "p50"):
        name = f"{{loop}} loop, {percentile}"
        series |= _series(rows, name, f"latency {percentile}", lambda row: row.figures["throughput"].median)
    _lines(axes, series, "throughput (requests/s)", "latency")
    axes.set_ylim(bottom=10)
    axes.set_yscale("log")


def _series(rows: Sequence[Row], name: str, figure: str, place: Callable[[Row], float]) -> Series:
    """Return the points of a figure, in lines named by the settings that ``name`` mentions in braces."""
    series: Series = {}
    for row in rows:
        series.setdefault(name.format_map(row.case), []).append((place(row), row.figures[figure]))
    return series


CHARTS: dict[str, Callable[[Axes, Sequence[Row]], None]] = {
    "latency_frames": _latency,
    "limit": _limit,
    "load": _load,
    "peers": _peers,
}
"""Name of a result -> its chart."""


def _bars(axes: Axes, bars: Sequence[tuple[str, Figure, bool]]) -> None:
    """Draw (name, figure, whether it is ours) from the top down: medians, with the range of the samples."""
    names, figures, ours = zip(*bars, strict=True)
    medians = [figure.median for figure in figures]
    colours = ["C0" if own else "#9aa3ad" for own in ours]
    drawn = axes.barh(names, medians, color=colours, xerr=_ranges(figures), error_kw={"lw": 1, "capsize": 2})
    axes.bar_label(drawn, [number(median) for median in medians], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(label("rate", figures[0].unit))


def _lines(axes: Axes, series: Series, across: str, up: str) -> None:
    """Draw medians joined by lines, with the range of the samples."""
    unit = ""
    for (name, points), marker in zip(series.items(), cycle("os^vD<>P"), strict=False):
        places, figures = zip(*points, strict=True)
        medians = [figure.median for figure in figures]
        axes.errorbar(places, medians, _ranges(figures), label=name, marker=marker, ms=6, capsize=2)
        unit = figures[0].unit
    axes.set(xlim=(0, None), ylim=(0, None), xlabel=across, ylabel=label(up, unit))
    axes.legend(frameon=False, fontsize=9)


def _ranges(figures: Sequence[Figure]) -> tuple[list[float], list[float]]:
    """Return the distances of the lowest and the highest sample from the median."""
    below = [figure.median - min(figure.samples) for figure in figures]
    return below, [max(figure.samples) - figure.median for figure in figures]
