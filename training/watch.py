"""What a run shows of itself: bars on stderr, and lines that stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sfavivit.utils.text import printable
from training.record import EpochRow
from training.trainer import StepFigures

console = Console(stderr=True)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


class StepProgress(Protocol):
    """Called with the steps done and, in training, running means of loss and accuracy."""

    def __call__(self, done: int, loss: float | None = None, accuracy: float | None = None) -> None: ...


class RunningMean:
    """The mean of all values at first, of about the last 50 later."""

    KEPT = 0.98

    def __init__(self) -> None:
        self.value, self._count = 0.0, 0

    def add(self, value: float) -> float:
        """The mean with one more value."""
        kept = min(self.KEPT, self._count / (self._count + 1))
        self.value = kept * self.value + (1 - kept) * value
        self._count += 1
        return self.value


class StageBar:
    """A :class:`training.run.Monitor`: a bar of steps, and a line for every epoch."""

    def __init__(self, bars: Progress, name: str, epochs: int) -> None:
        self._bars, self._name, self._epochs = bars, name, epochs
        self._loss, self._accuracy = RunningMean(), RunningMean()
        self._task: TaskID | None = None

    def step(self, figures: StepFigures, steps: int) -> None:
        """A step of ``steps`` is done."""
        if self._task is None:
            self._task = self._bars.add_task(self._name, total=steps)
        loss, accuracy = self._loss.add(figures.loss), self._accuracy.add(figures.accuracy)
        text = f"{self._name}, loss {loss:.3f}, accuracy {accuracy:.1%}"
        self._bars.update(self._task, completed=figures.step + 1, description=text)

    def epoch(self, row: EpochRow) -> None:
        """An epoch is done."""
        memory = f"{row.peak_memory_bytes / 1e9:.2f} GB"
        cuda = f", GPU {row.peak_cuda_bytes / 1e9:.2f} GB" if row.peak_cuda_bytes else ""
        broken = f", {row.broken_videos} broken videos" if row.broken_videos else ""
        outputs = ", ".join(f"{output} {top1:.1%}" for output, top1 in row.output_top1.items())
        top1 = f"{row.top1_name} {row.top1:.1%}" + (f" ({outputs})" if outputs else "")
        say(
            f"{self._name} epoch {row.epoch} of {self._epochs}: {top1}, loss {row.loss:.3f} "
            f"(validation {row.validation_loss:.3f}), {row.seconds:.0f} s, {memory}{cuda}{broken}"
        )


@contextmanager
def stage_bar(name: str, epochs: int, *, shown: bool) -> Iterator[StageBar]:
    """A bar for a stage; ``shown`` in the first process."""
    with Progress(
        *_COLUMNS, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bars:
        yield StageBar(bars, name, epochs)


@contextmanager
def work_bar(name: str, total: int) -> Iterator[StepProgress]:
    """A bar for any work, and one line that stays: how long it took and what came of it."""
    start = time.perf_counter()
    figures = ""
    with Progress(*_COLUMNS, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=total)

        def progress(done: int, loss: float | None = None, accuracy: float | None = None) -> None:
            nonlocal figures
            figures = "" if loss is None else f", loss {loss:.3f}, accuracy {accuracy:.1%}"
            bars.update(task, completed=done, description=name + figures)

        yield progress
    say(f"{name}: {total} in {time.perf_counter() - start:.0f} s{figures}")


def say(line: str) -> None:
    """A line on stderr, as it is."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
