"""A scoring job: the videos of a list that have no rows yet are scored, and their rows written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from sfavivit.datasets import VideoItem
from sfavivit.repository.manifest import Catalog
from sfavivit.scoring.folder import JobFolder
from sfavivit.scoring.job_options import Output, ScoreOptions
from sfavivit.scoring.metrics import evaluate
from sfavivit.scoring.record import record_of
from sfavivit.scoring.rows import Row, storable_text
from sfavivit.scoring.stop import StopSignals

Executor = Callable[[Sequence[VideoItem]], Generator[list[Row], None, None]]
"""Yields the rows of each item, in any order, and an empty list now and then while nothing has come."""

OnProgress = Callable[["JobProgress"], None]


@dataclass
class JobProgress:
    """Progress of a job.

    Attributes:
        videos: videos of its shard.
        before: how many of them had rows at the start.
        outcomes: {error kind: number of videos that have rows}; None for those without an error.
        devices: {device: number of videos that it computed in this job}.
    """

    videos: int
    before: int = 0
    outcomes: Counter[str | None] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Videos that have rows."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Videos whose rows have an error."""
        return self.done - self.outcomes[None]


def score_list(
    items: Sequence[VideoItem],
    catalog: Catalog,
    options: ScoreOptions,
    output: Output,
    executor: Executor,
    *,
    stop: StopSignals,
    on_progress: OnProgress,
) -> tuple[JobProgress, dict[str, Any] | None]:
    """Score a list; returns the last progress, and the metrics of all rows unless a signal stopped the job.

    Raises:
        UsageError: the folder has rows of another kind of job; an option is invalid.
        ScoringError: the folder is in use, or cannot be read or written.
        SfaVivitError: raised by the executor.
    """
    with JobFolder.opened(record_of(catalog, options), output) as folder:
        with stop:
            state = run_job(folder, items, executor, stopped=stop, on_progress=on_progress)
        return state, None if stop() else evaluate(folder)


def run_job(
    folder: JobFolder,
    items: Sequence[VideoItem],
    executor: Executor,
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda _: None,
) -> JobProgress:
    """Score the videos of the folder's shard that have no rows yet.

    However it ends (``stopped``, an error, the last item), all rows that have come are in Parquet parts.

    Raises:
        ScoringError: the folder cannot be read or written.
        SfaVivitError: raised by the executor.
    """
    known = folder.outcomes()
    mine = [item for item in items if folder.output.shard.holds(item.id)]
    pending = [item for item in mine if storable_text(item.id) not in known]
    state = JobProgress(len(mine), len(mine) - len(pending))
    state.outcomes.update(known[key] for item in mine if (key := storable_text(item.id)) in known)
    on_progress(state)
    with folder.writer() as writer:
        run_executor(executor, pending, state, writer.add, stopped=stopped, on_progress=on_progress)
    return state


def run_executor(
    executor: Executor,
    items: Sequence[VideoItem],
    state: JobProgress,
    take_rows: Callable[[list[Row]], None],
    *,
    stopped: Callable[[], bool],
    on_progress: OnProgress,
) -> None:
    """Pass all rows of an executor to ``take_rows``, until ``stopped``, and count them in ``state``.

    Raises:
        SfaVivitError: raised by the executor or by ``take_rows``.
    """
    with closing(executor(items)) as results:
        for rows in results:
            take_rows(rows)
            if rows:
                state.outcomes[rows[0].get("error_kind")] += 1
                state.devices.update(filter(None, [rows[0].get("device")]))
            on_progress(state)
            if stopped():
                break
