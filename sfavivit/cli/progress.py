"""Progress of commands: a bar on a terminal, elsewhere a line now and then for long jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sfavivit.utils.text import printable

if TYPE_CHECKING:
    from sfavivit.scoring.job import JobProgress

LINE_SECONDS = 30.0


class UpdateBar(Protocol):
    """Moves a bar to ``done`` of ``total`` (None: unknown); ``text`` beside it replaces the number done."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None: ...


@contextmanager
def progress_bar(label: str, console: Console, unit: str = "") -> Iterator[UpdateBar]:
    """Draw a bar while the context lasts, and remove it at the end; only a terminal has one."""
    name, text_column = (
        TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[text]")
    )
    columns = (name, BarColumn(), text_column, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(label), total=None, text="")

        def update(done: float, total: float | None, text: str = "") -> None:
            bar.update(task, completed=done, total=total, text=text or f"{done:.0f} {unit}")

        yield update


class JobMonitor:
    """Shows the progress of a scoring job: a bar on a terminal, elsewhere a line every ``LINE_SECONDS``."""

    def __init__(self, label: str, console: Console) -> None:
        self._label = label
        self._console = console
        self._start = self._last_line = time.monotonic()
        self._update_bar: UpdateBar | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the bar while the context lasts."""
        with progress_bar(self._label, self._console) as self._update_bar:
            yield

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def update(self, state: JobProgress) -> None:
        """Show ``state``; called with every change, and now and then."""
        rate = (state.done - state.before) / max(self.seconds, 1e-3)
        speed = f"{rate:.3g} videos/s" if rate else "starting"
        failed = f", {state.failed} failed" if state.failed else ""
        if self._update_bar:
            text = f"{state.done}/{state.videos} {speed}{failed}"
            self._update_bar(state.done, state.videos, text)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            left = round((state.videos - state.done) / rate) if rate else None
            to_go = "" if left is None else f", {timedelta(seconds=left)} to go"
            line = f"{state.done} of {state.videos} videos, {speed}{to_go}{failed}"
            self._console.print(line, soft_wrap=True)
