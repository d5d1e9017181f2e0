"""A picture of the timelines of videos (``classify --plot``), with lanes as in the report."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfavivit.reports.curves import OutputCurves
from sfavivit.reports.files import write_file
from sfavivit.reports.video_report import OutputReport, VideoReport
from sfavivit.utils.figures import figure_bytes
from sfavivit.utils.text import clock, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
MAX_TIMELINES = 50  # of all videos and outputs together, so that the picture can be looked at
WIDTH_INCHES = 10.0
LANE_INCHES = 0.36
MARGIN_INCHES = 0.85  # title and axis of one timeline
DPI = 144

# Okabe and Ito's colours for the colour-blind (https://jfly.uni-koeln.de/color/), as in the report.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b0558b", "#c98700", "#3c9fd6", "#8a7d00", "#6b7280")
MAX_TICKS = 10
_STEPS_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def write_plot(path: Path, reports: Sequence[VideoReport]) -> None:
    """Draw the first ``MAX_TIMELINES`` outputs of all videos, one under the other.

    Videos without a timeline are left out; if none has one, no file is written.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    drawn = [
        (report, output, output.curves) for report in reports for output in report.outputs if output.curves
    ]
    if not drawn:
        return
    left_out, drawn = len(drawn) - MAX_TIMELINES, drawn[:MAX_TIMELINES]
    heights = [MARGIN_INCHES + LANE_INCHES * len(curves.lanes) for _, _, curves in drawn]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(drawn), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (report, output, curves) in zip(axes, drawn, strict=True):
        _draw(axis, report, output, curves)
    if left_out > 0:
        figure.supxlabel(f"{left_out} more timelines are not shown")
    write_file(path, figure_bytes(figure, path.suffix.lower().removeprefix(".")))


def _draw(axis: Axes, report: VideoReport, output: OutputReport, curves: OutputCurves) -> None:
    """Draw lanes from the top down, each 1 high, and faint where another label wins."""
    from matplotlib.ticker import MultipleLocator  # noqa: PLC0415 - an extra

    assert report.answer is not None
    end = curves.start_seconds + report.answer.duration_seconds
    edges = curves.start_seconds + curves.bin_seconds * np.arange(len(curves.winners) + 1)
    edges[-1] = end
    for number, lane in enumerate(curves.lanes):
        floor, colour = len(curves.lanes) - 1 - number, PALETTE[number % len(PALETTE)]
        top = floor + 0.92 * lane.confidences
        won = np.where(curves.winners == number, top, floor)
        axis.stairs(top, edges, baseline=floor, fill=True, color=colour, alpha=0.25, linewidth=0)
        axis.stairs(won, edges, baseline=floor, fill=True, color=colour, linewidth=0)
        axis.axhline(floor, color="#dde2e8", linewidth=0.8, zorder=0)
    names = [textwrap.shorten(printable(lane.label), 40) for lane in curves.lanes]
    axis.set_yticks(len(names) - 0.5 - np.arange(len(names)), [_plain(name) for name in names])
    axis.set_title(_plain(f"{printable(Path(report.video).name)} · {output.title}"), loc="left", fontsize=11)
    axis.set(xlim=(curves.start_seconds, end), ylim=(0, len(names)))
    seconds = end - curves.start_seconds
    step = next((step for step in _STEPS_SECONDS if step * MAX_TICKS >= seconds), _STEPS_SECONDS[-1])
    axis.xaxis.set_major_locator(MultipleLocator(step))
    axis.xaxis.set_major_formatter(lambda seconds, _: clock(seconds).removesuffix(".0"))
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _plain(text: str) -> str:
    """Escape dollar signs, which would start a formula."""
    return text.replace("$", r"\$")
