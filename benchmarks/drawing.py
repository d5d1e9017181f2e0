"""What charts are made of: panels of bars, of stacked bars and of lines, in one style."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.figures import Figure
from benchmarks.tables import label, number
from sfavivit.reports.plot import DPI, PALETTE
from sfavivit.utils.text import printable

WIDTH_INCHES = 9.0  # of a README's 880 pixels
BAR_INCHES = 0.3
MARGIN_INCHES = 0.95  # title and axis of one panel
LINE_INCHES = 3.8
QUIET = "#9aa3ad"
GRID = "#dde2e8"
MARKERS = "osD^v<>P"

Points = Sequence[tuple[float, Figure]]


def new_picture(title: str, heights: Sequence[float], columns: int = 1) -> tuple[Picture, list[list[Axes]]]:
    """Panels in lines of those heights (inches) under one title."""
    picture = Picture(figsize=(WIDTH_INCHES, sum(heights) + 0.35), dpi=DPI, layout="constrained")
    picture.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
    grid = picture.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    return picture, grid.tolist()


def bars_inches(count: int) -> float:
    """The height of a panel of so many bars."""
    return MARGIN_INCHES + BAR_INCHES * count


def png(picture: Picture) -> bytes:
    """The same bytes for the same picture: without the version of the library that drew it."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def bars(
    axis: Axes, labels: Sequence[str], figures: Sequence[Figure], colours: Sequence[str], notes: Sequence[str]
) -> None:
    """Medians as bars from the top down, their range as a whisker, and what is to be read at their ends."""
    medians = [figure.median for figure in figures]
    places = range(len(labels))
    axis.barh(places, medians, 0.7, color=colours, xerr=_ranges(figures), error_kw={"lw": 1, "capsize": 2})
    for place, figure, text in zip(places, figures, notes, strict=True):
        note(axis, (max(figure.samples), place), text)
    axis.margins(x=0.2)
    _bar_axes(axis, labels)


def stacked_bars(
    axis: Axes,
    labels: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
) -> None:
    """A bar for each label, of parts that follow each other."""
    ends = [0.0] * len(labels)
    for name, values in parts.items():
        axis.barh(range(len(labels)), values, 0.7, left=ends, color=colours[name])
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    axis.use_sticky_edges = False  # else there is no margin beyond the last part
    _bar_axes(axis, labels)
    axis.set_xlim(left=0)


def marks(axis: Axes, places: Sequence[float]) -> None:
    """A line across each bar, from the top down."""
    for number_, place in enumerate(places):
        axis.plot([place, place], [number_ - 0.42, number_ + 0.42], color="black", lw=1.6)


def note(axis: Axes, place: tuple[float, float], text: str, side: Literal["left", "right"] = "right") -> None:
    """Small print beside a place."""
    away, align = (5, "left") if side == "right" else (-8, "right")
    axis.annotate(
        plain(text), place, (away, 0), textcoords="offset points", va="center", ha=align, fontsize=9
    )


def point(axis: Axes, across: Figure, up: Figure, colour: str, marker: str, name: str) -> None:
    """Two medians, with the ranges of both; ``name`` for the legend."""
    ranges = _ranges([up]), _ranges([across])
    place = across.median, up.median
    axis.errorbar(
        *place, *ranges, label=plain(name), color=colour, marker=marker, ms=7, capsize=2, lw=1, ls=""
    )
    axis.grid(color=GRID, lw=0.8)


def lines(axis: Axes, series: Mapping[str, Points]) -> None:
    """Medians joined by lines, with their ranges."""
    for number_, (name, points) in enumerate(series.items()):
        places, figures = zip(*points, strict=True)
        medians = [figure.median for figure in figures]
        turn, place = divmod(number_, len(PALETTE))
        colour, marker = PALETTE[place], MARKERS[(place + turn) % len(MARKERS)]
        bars = axis.errorbar(places, medians, _ranges(figures), color=colour, marker=marker, ms=5, capsize=2)
        bars.set_label(plain(name))
    axis.grid(color=GRID, lw=0.8)
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=9)


def log_scale(axis: Axes, which: Literal["x", "y"], at: Collection[float] = ()) -> None:
    """With plain numbers; ``at``: the only places that have one."""
    axis.set(**{f"{which}scale": "log"})
    one = axis.xaxis if which == "x" else axis.yaxis
    one.set_major_locator(FixedLocator(sorted(set(at))) if at else LogLocator(subs=(1, 2, 5)))
    one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def label_of(name: str, unit: str) -> str:
    """``latency p50 (ms)``."""
    return plain(label(name, unit))


def plain(text: str) -> str:
    """One line, in which dollar signs start no formula."""
    return printable(text).replace("$", r"\$")


def legend_below(picture: Picture, colours: Mapping[str, str]) -> None:
    """What the colours mean, for all panels."""
    patches = [Patch(color=colour, label=plain(name)) for name, colour in colours.items()]
    picture.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def _ranges(figures: Sequence[Figure]) -> tuple[list[float], list[float]]:
    """How far the samples reach below and above their medians."""
    return (
        [figure.median - min(figure.samples) for figure in figures],
        [max(figure.samples) - figure.median for figure in figures],
    )


def _bar_axes(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), [plain(label) for label in labels], fontsize=9)
    axis.set_ylim(len(labels) - 0.4, -0.6)  # the first is on top
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=GRID, lw=0.8)
