"""Files of a confusion matrix: a table, a picture, and accuracies by class."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import UsageError
from sfavivit.extras import needs_extra
from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.figures import figure_bytes
from sfavivit.utils.text import csv_text, plain_text, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Counts = NDArray[np.int64]

MAX_NAMED_CLASSES = 48  # more names cannot be read in a picture
MAX_NUMBERED_CLASSES = 16
MAX_NAME_CHARACTERS = 36
NAMED_CELL_INCHES = 0.27
NUMBERED_CELL_INCHES = 0.5
UNNAMED_INCHES = 8.5
DPI = 120


def write_confusion(folder: Path, stem: str, confusion: Counts, labels: Sequence[str]) -> list[Path]:
    """Write ``confusion_<stem>.csv``, ``per_class_<stem>.csv`` and ``confusion_<stem>.png``; returns them.

    The picture leaves out classes that never occur.

    Args:
        folder: folder to write to.
        stem: end of the files' names.
        confusion: int64 [C, C], truth by prediction.
        labels: names of the classes.

    Raises:
        UsageError: a file cannot be written, or matplotlib is not installed (the CSV files are written).
    """
    counts, right = confusion.sum(1), confusion.diagonal()
    names = [plain_text(label) for label in labels]
    matrix = ([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    per_class = (
        [name, count, hits, f"{hits / count:.6f}" if count else ""]
        for name, count, hits in zip(names, counts.tolist(), right.tolist(), strict=True)
    )
    files = {
        f"confusion_{stem}.csv": csv_text(["truth \\ prediction", *names], matrix).encode(),
        f"per_class_{stem}.csv": csv_text(["label", "count", "correct", "top1"], per_class).encode(),
    }
    written = [_write(folder / name, content) for name, content in files.items()]
    return [*written, _write(folder / f"confusion_{stem}.png", confusion_picture(confusion, labels, stem))]


def _write(path: Path, content: bytes) -> Path:
    try:
        atomic_write(path, content)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}") from None
    return path


def confusion_picture(confusion: Counts, labels: Sequence[str], title: str) -> bytes:
    """Draw a PNG: rows are true classes, columns predictions, and colours the share of the row.

    Classes are named while that can be read, else numbered; cells have numbers while these fit.

    Raises:
        UsageError: matplotlib is not installed.
    """
    with needs_extra("a picture", "score"):
        from matplotlib.colors import PowerNorm  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    seen = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    matrix = confusion[np.ix_(seen, seen)]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cell = NUMBERED_CELL_INCHES if len(seen) <= MAX_NUMBERED_CLASSES else NAMED_CELL_INCHES
    side = max(3.0, cell * len(seen)) if len(seen) <= MAX_NAMED_CLASSES else UNNAMED_INCHES
    names = [_short(labels[index]) for index in seen.tolist()]
    margin = 1.0 + 0.08 * max(map(len, names)) if len(seen) <= MAX_NAMED_CLASSES else 1.0
    figure = Figure(figsize=(side + margin + 1.3, side + margin + 0.1), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    # The power scale shows the few per cent off the diagonal that a linear one would hide.
    # Averaging neighbours pales the diagonal; it is only for matrices with more cells than pixels.
    interpolation = "nearest" if side * DPI > 1.5 * len(seen) else "auto"
    image = axis.imshow(shares, "Blues", norm=PowerNorm(0.4, 0, 1), interpolation=interpolation)
    bar = figure.colorbar(image, ax=axis, shrink=0.6, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], aspect=30)
    bar.set_label("share of the videos of a class")
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.outline.set_visible(False)
    _draw_axes(axis, names, seen)
    if len(seen) <= MAX_NUMBERED_CLASSES:
        _draw_shares(axis, shares)
    top_1 = matrix.trace() / max(matrix.sum(), 1)
    shown = f"{len(seen)} of {len(labels)} classes"
    text = f"{printable(title)}: top-1 {top_1:.1%} of {matrix.sum():,} videos, {shown}"
    figure.suptitle(text, fontsize=11, parse_math=False)
    return figure_bytes(figure, "png")


def _draw_axes(axis: Axes, names: Sequence[str], seen: NDArray[np.intp]) -> None:
    axis.set(xlabel="prediction", ylabel="truth")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if len(names) <= MAX_NAMED_CLASSES:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=9, parse_math=False)
        axis.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
        axis.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="#e3e8ee", linewidth=0.6)
        axis.tick_params(which="minor", length=0)
        return
    ticks = range(0, len(names), 10 if len(names) <= 120 else 50)
    indexes = [str(seen[tick]) for tick in ticks]
    axis.set_xticks(ticks, indexes, fontsize=9)
    axis.set_yticks(ticks, indexes, fontsize=9)
    axis.set(xlabel="index of the predicted class", ylabel="index of the true class")
    axis.spines[:].set(visible=True, color="#c3cbd5", linewidth=0.6)


def _draw_shares(axis: Axes, shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share:
            colour = "white" if share > 0.3 else "#26384d"
            axis.text(column, row, f"{share:.0%}", color=colour, fontsize=8.5, ha="center", va="center")


def _short(label: str) -> str:
    return textwrap.shorten(printable(label), MAX_NAME_CHARACTERS, placeholder="…")
