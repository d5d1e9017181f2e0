"""Progress on stderr: transient bars, and lines that stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sfavivit.utils.text import printable
from training.trainer import StepProgress

console = Console(stderr=True)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@contextmanager
def work_bar(name: str, total: int, *, shown: bool = True) -> Iterator[StepProgress]:
    """Show a bar while work is done, and at the end a line with its duration and last figures."""
    start = time.perf_counter()
    figures = ""
    with Progress(
        *_COLUMNS, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bars:
        task = bars.add_task(name, total=total)

        def progress(done: int, loss: float | None = None, accuracy: float | None = None) -> None:
            nonlocal figures
            figures = "" if loss is None else f", loss {loss:.3f}, accuracy {accuracy:.1%}"
            bars.update(task, completed=done, description=name + figures)

        yield progress
    if shown:
        say(f"{name}: {total} in {time.perf_counter() - start:.0f} s{figures}")


def say(line: str) -> None:
    """Print a line on stderr as it is."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
