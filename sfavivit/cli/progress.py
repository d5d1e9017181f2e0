"""How far a scoring job is: a bar on a terminal, a line now and then elsewhere, a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sfavivit.utils.text import printable

if TYPE_CHECKING:
    from sfavivit.scoring.job import JobProgress

LINE_SECONDS = 30.0


class ProgressView:
    """Shows a job's progress on ``console``; ``show`` is called with every change and now and then.

    ``label``: what the bar calls it.
    """

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._start = time.monotonic()
        self._last_line = self._start
        self._bar: Progress | None = None

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """While this lasts, a terminal has the bar; it is wiped at the end."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn(self._label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as self._bar:
            self._bar.add_task("", total=None, text="")
            yield

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def rate(self, state: JobProgress) -> float:
        """Videos a second, of those scored since the start."""
        return (state.done - state.before) / max(self.seconds, 1e-3)

    def show(self, state: JobProgress) -> None:
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, total=state.videos, completed=state.done, text=self._text(state))
        elif not self._console.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"{state.done} of {state.videos} videos, {self._text(state)}", soft_wrap=True)

    def _text(self, state: JobProgress) -> str:
        rate = self.rate(state)
        if not rate:
            return "starting"
        seconds_left = round((state.videos - state.done) / rate)
        parts = [f"{rate:.3g} videos/s", f"{timedelta(seconds=seconds_left)} to go"]
        if state.failed:
            parts.append(f"{state.failed} failed")
        return ", ".join(parts)


def summary_fields(state: JobProgress, seconds: float, metrics: dict[str, Any] | None) -> dict[str, Any]:
    """The summary as ``--json`` prints it."""
    scored = state.done - state.before
    return {
        "videos": state.videos,
        "done_before": state.before,
        "done_now": scored,
        "succeeded": state.outcomes[None],
        "failed": {kind: count for kind, count in state.outcomes.most_common() if kind is not None},
        "seconds": round(seconds, 3),
        "videos_per_second": round(scored / max(seconds, 1e-3), 3),
        "metrics": metrics,
    }


def print_summary(console: Console, fields: dict[str, Any], folder: str) -> None:
    """The summary for people."""
    left = fields["videos"] - fields["done_before"] - fields["done_now"]
    console.print(
        Text.assemble(
            (f"{fields['done_now']} videos", "bold"),
            f" in {timedelta(seconds=round(fields['seconds']))} ({fields['videos_per_second']:.3g} a second)",
            f", {fields['done_before']} were done before" if fields["done_before"] else "",
            f", {left} are left: start again to go on" if left else "",
        )
    )
    if fields["failed"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in fields["failed"].items())
        console.print(Text.assemble((f"{sum(fields['failed'].values())} failed: ", "bold red"), kinds))
    console.print(f"rows: {folder}/rows", markup=False, soft_wrap=True)
    if fields["metrics"]:
        console.print(Group(Text(), *_metrics_view(fields["metrics"])))


def _metrics_view(metrics: dict[str, Any]) -> list[RenderableType]:
    """Accuracies by head and output, and what the heads do not know."""
    table = Table("head", "videos", "top-1", "top-5", "mean of classes", box=None, pad_edge=False)
    notes: list[RenderableType] = []
    for head, summary in metrics.items():
        action = {"action": summary["action"]} if "action" in summary else {}
        for output, counts in (summary["outputs"] | action).items():
            name = printable(f"{head} / {output}" if output else head)
            shares = (counts.get(key) for key in ("top1", "top5", "mean_per_class"))
            table.add_row(
                Text(name),
                str(counts["evaluated"]),
                *("" if share is None else f"{share:.1%}" for share in shares),
            )
            if counts.get("unknown"):
                examples = ", ".join(map(repr, [*counts["unknown_labels"]][:3]))
                notes.append(
                    Text(
                        f"{name}: {counts['unknown']} videos have labels that it does not know, as {examples}"
                    )
                )
    return [table, *notes]
