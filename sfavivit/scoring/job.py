"""A scoring job: what is not in parts yet is scored and put there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from sfavivit.annotations import VideoItem
from sfavivit.scoring.folder import JobFolder
from sfavivit.scoring.rows import Row, text

PART_VIDEOS = 1000
PART_SECONDS = 60.0

Executor = Callable[[Sequence[VideoItem]], Generator[list[Row], None, None]]
"""Items -> the rows of each, in any order; an empty list now and then when nothing has come."""


@dataclass
class JobProgress:
    """Where a job stands. ``videos``: of this shard; ``before``: of those, how many had rows at the start.

    ``outcomes``: error kind -> number of videos, ``None`` for those that are fine; of all that have rows.
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


def run_job(
    folder: JobFolder,
    items: Sequence[VideoItem],
    executor: Executor,
    *,
    part_videos: int = PART_VIDEOS,
    part_seconds: float = PART_SECONDS,
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
    mine = [item for item in items if folder.shard.holds(item.id)]
    pending = [item for item in mine if text(item.id) not in known]
    state = JobProgress(len(mine), len(mine) - len(pending))
    state.outcomes.update(known[key] for item in mine if (key := text(item.id)) in known)
    progress(state)
    writer = folder.writer(videos=part_videos, seconds=part_seconds)
    with writer, closing(executor(pending)) as results:
        for rows in results:
            writer.add(rows)
            if rows:
                state.outcomes[rows[0].get("error_kind")] += 1
            progress(state)
            if stopped():
                break
    return state
