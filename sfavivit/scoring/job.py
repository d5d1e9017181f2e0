"""A scoring job: what is not in parts yet is scored and put there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from sfavivit.datasets import VideoItem
from sfavivit.repository.manifest import Catalog
from sfavivit.scoring.folder import JobFolder
from sfavivit.scoring.metrics import evaluate
from sfavivit.scoring.options import Output, ScoreOptions
from sfavivit.scoring.record import record_of
from sfavivit.scoring.rows import Row, text
from sfavivit.scoring.stop import StopSignals

Executor = Callable[[Sequence[VideoItem]], Generator[list[Row], None, None]]
"""Items -> the rows of each, in any order; an empty list now and then when nothing has come."""


@dataclass
class JobProgress:
    """Where a job stands. ``videos``: of its shard; ``before``: how many of them had rows at the start.

    ``outcomes``: error kind -> number of videos that have rows; None for those that are fine.
    """

    videos: int
    before: int
    outcomes: Counter[str | None] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        return self.done - self.outcomes[None]


def score_list(
    items: Sequence[VideoItem],
    catalog: Catalog,
    options: ScoreOptions,
    output: Output,
    executor: Executor,
    *,
    stop: StopSignals,
    progress: Callable[[JobProgress], None],
) -> tuple[JobProgress, dict[str, Any] | None]:
    """Score a list by ``executor``; how it ended, and the metrics of all rows if it was not stopped.

    Raises:
        UsageError: the folder has rows of another kind of job; options that cannot be.
        ScoringError: the folder is in use, or cannot be read or written.
        SfaVivitError: what the executor raises.
    """
    with JobFolder.opened(record_of(catalog, options), output) as folder:
        with stop:
            state = run_job(folder, items, executor, stopped=stop, progress=progress)
        return state, None if stop() else evaluate(folder)


def run_job(
    folder: JobFolder,
    items: Sequence[VideoItem],
    executor: Executor,
    *,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[JobProgress], None] = lambda _: None,
) -> JobProgress:
    """Score the videos of the folder's shard that have no rows yet.

    Whatever ends it (``stopped``, an error, the end), what has been scored until then is in parts.

    Raises:
        ScoringError: the folder cannot be read or written.
        SfaVivitError: what the executor raises.
    """
    known = folder.outcomes()
    mine = [item for item in items if folder.output.shard.holds(item.id)]
    pending = [item for item in mine if text(item.id) not in known]
    state = JobProgress(len(mine), len(mine) - len(pending))
    state.outcomes.update(known[key] for item in mine if (key := text(item.id)) in known)
    progress(state)
    with folder.writer() as writer, closing(executor(pending)) as results:
        for rows in results:
            writer.add(rows)
            if rows:
                state.outcomes[rows[0].get("error_kind")] += 1
            progress(state)
            if stopped():
                break
    return state
