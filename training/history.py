"""History of a run: a row per epoch, a row per step, and curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.figures import figure_bytes
from sfavivit.utils.text import plain_text
from training.trainer import StepMetrics

NEAR_PEAK = 0.01  # within one point of the best top-1, as the paper counts


class EpochRow(NamedTuple):
    """Metrics of an epoch, counted from 1; accuracies are shares of clips.

    ``top1``: validation clips that are right in all outputs; ``output_top1`` {output: share}: in each, where
    there are several. ``seconds``: of training, without validation. ``peak_memory_bytes``: resident memory of
    the first process, without its workers; ``peak_cuda_bytes``: of its GPU, or 0. ``broken_videos``: so far.
    """

    epoch: int
    steps: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float
    top1: float
    seconds: float
    peak_memory_bytes: int
    peak_cuda_bytes: int
    broken_videos: int
    output_top1: dict[str, float] = {}  # noqa: RUF012 - never changed

    @property
    def top1_name(self) -> str:
        """Name of ``top1``: with verb and noun, it is that of the action."""
        return "action top-1" if self.output_top1.keys() == {"verb", "noun"} else "top-1"

    def __str__(self) -> str:
        outputs = ", ".join(f"{output} {top1:.1%}" for output, top1 in self.output_top1.items())
        parts = [
            f"{self.top1_name} {self.top1:.1%}" + (f" ({outputs})" if outputs else ""),
            f"loss {self.loss:.3f} (validation {self.validation_loss:.3f})",
            f"{self.seconds:.0f} s",
            f"{self.peak_memory_bytes / 1e9:.2f} GB",
        ]
        if self.peak_cuda_bytes:
            parts.append(f"GPU {self.peak_cuda_bytes / 1e9:.2f} GB")
        if self.broken_videos:
            parts.append(f"{self.broken_videos} broken videos")
        return ", ".join(parts)


def near_peak_epoch(rows: Sequence[EpochRow]) -> int | None:
    """Return the first epoch within one point of the best top-1; None before the first epoch."""
    best = max((row.top1 for row in rows), default=0.0)
    return next((row.epoch for row in rows if row.top1 >= best - NEAR_PEAK), None)


def write_epochs(path: Path, rows: Sequence[EpochRow]) -> None:
    """Write a CSV of one row or more; with several outputs, each has a column ``top1_<output>``."""
    columns = [*EpochRow._fields[:-1], *(f"top1_{output}" for output in rows[0].output_top1)]
    write_table(path, columns, ([*row[:-1], *row.output_top1.values()] for row in rows))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV, all or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def write_broken(path: Path, broken: Mapping[str, str]) -> None:
    """Write a CSV of the videos that could not be read, {id: reason}."""
    rows = ((plain_text(name), plain_text(reason)) for name, reason in sorted(broken.items()))
    write_table(path, ("id", "reason"), rows)


@contextmanager
def step_log(path: Path, first_step: int) -> Iterator[Callable[[StepMetrics], object]]:
    """Append rows to a CSV as steps are taken; rows of steps that will be repeated are dropped first."""
    kept = []
    if first_step and path.exists():
        with path.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row and int(row[0]) < first_step]
    write_table(path, StepMetrics._fields, kept)
    with path.open("a", newline="", buffering=1) as file:
        writer = csv.writer(file, lineterminator="\n")
        # Numbers in full, so that two runs can be compared exactly.
        yield lambda metrics: writer.writerow(map(repr, metrics))


def write_curves(path: Path, runs: Mapping[str, Sequence[EpochRow]]) -> None:
    """Write a PNG of loss and top-1 over the epochs of runs {name: rows}, near-peak epochs marked.

    With several outputs, each has a thin line beside that of all together.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second, for a file at the end

    figure = Figure(figsize=(10, 4), dpi=144, layout="constrained")
    loss_axis, top1_axis = figure.subplots(1, 2)
    for name, rows in runs.items():
        epochs = [row.epoch for row in rows]
        (line,) = loss_axis.plot(epochs, [row.loss for row in rows], marker=".", label=f"{name}, training")
        colour = line.get_color()
        loss_axis.plot(epochs, [row.validation_loss for row in rows], ":", color=colour)
        top1_axis.plot(epochs, [100 * row.top1 for row in rows], marker=".", color=colour, label=name)
        for output, style in zip(rows[0].output_top1 if rows else (), cycle(("--", "-.", ":"))):
            values = [100 * row.output_top1[output] for row in rows]
            top1_axis.plot(epochs, values, style, linewidth=1, color=colour, label=f"{name}, {output}")
        if near := near_peak_epoch(rows):
            top1 = 100 * rows[near - 1].top1
            top1_axis.plot(near, top1, marker="o", markersize=9, fillstyle="none", color=colour)
    loss_axis.set(xlabel="epoch", title="loss (dotted: validation)")
    top1_name = next((row.top1_name for rows in runs.values() for row in rows), "top-1")
    top1_axis.set(xlabel="epoch", ylabel="% of the validation clips")
    top1_axis.set_title(f"{top1_name} (circle: within a point of the best)")
    for axis in (loss_axis, top1_axis):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    top1_axis.legend(frameon=False)
    atomic_write(path, figure_bytes(figure, "png"))
