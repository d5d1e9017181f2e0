"""``sfavivit features``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from sfavivit.cli.options import (
    DEFAULT_REPOSITORY,
    MIB,
    EngineOption,
    JsonSummaryOption,
    LimitDurationOption,
    LimitFetchOption,
    LimitMemoryOption,
    LimitPixelsOption,
    LimitStallOption,
    ListArgument,
    ListRootOption,
    RepositoryOption,
    SplitOption,
    WorkersOption,
    WorkerThreadsOption,
    err,
    limits_of,
)
from sfavivit.cli.progress import ProgressView
from sfavivit.datasets import VideoItem, read_items
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import UsageError
from sfavivit.features.entry import StoredDtype
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.machines import this_machine
from sfavivit.scoring.options import DEFAULT_FETCH_BYTES, ModelLocation, ScoreOptions, Shard
from sfavivit.scoring.stop import StopSignals
from sfavivit.utils.text import printable
from sfavivit.video.reader import Limits

if TYPE_CHECKING:
    from sfavivit.scoring.job import JobProgress


def features(
    manifest: ListArgument,
    root: Annotated[Path, typer.Option("--store", help="Folder of the feature store, made if need be.")],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    dtype: Annotated[
        str | None, typer.Option(help="What a new store keeps: float32 (default) or float16.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Of each video as a whole, once, where the list has parts; see score --snap."
        ),
    ] = False,
    views: Annotated[
        str | None, typer.Option(metavar="TxS", help="Crops of multi-view scoring, for example 4x3.")
    ] = None,
    workers: WorkersOption = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only part I of N of the list.")] = "1/1",
    video_root: ListRootOption = None,
    split: SplitOption = None,
    as_json: JsonSummaryOption = False,
    engine: EngineOption = None,
    threads: WorkerThreadsOption = None,
    limit_duration_seconds: LimitDurationOption = Limits.duration_seconds,
    limit_pixels: LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: LimitStallOption = Limits.stall_seconds,
    limit_memory_mib: LimitMemoryOption = Limits.memory_bytes // MIB,
    limit_fetch_mib: LimitFetchOption = DEFAULT_FETCH_BYTES // MIB,
) -> None:
    """Fill a feature store with what it lacks, so that scoring with any head needs no video decoded."""
    limits = limits_of(limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_memory_mib)
    part = Shard.parse(shard)
    listed = read_items(manifest, root=video_root, split=split)
    items = [item for item in (_whole_videos(listed) if whole else listed) if part.holds(item.id)]
    check_schemes(item.video for item in items)
    if dtype not in (None, *get_args(StoredDtype)):
        raise UsageError(f"dtype {dtype!r} must be {' or '.join(get_args(StoredDtype))}")
    machine = this_machine()
    workers = workers or max(1, machine.cores // 2)
    models = ModelLocation(repository, engine, threads or machine.cores_each(workers))
    FeatureStore(root, cast("StoredDtype | None", dtype))
    # Filling a store is scoring whose rows nobody keeps: one clip of one head, which costs next to nothing.
    options = ScoreOptions(
        ClassifyOptions(
            tuple(models.catalog().manifest.heads)[:1],
            views=Views(1, Views.parse(views).crops if views else 1),
        ),
        limits=limits,
        store=str(root),
        fetch_bytes=limit_fetch_mib * MIB,
    )
    view, stop = ProgressView(err, "features"), StopSignals()
    with view.drawn(), stop:
        state, found, failures = _fill(items, models, options, workers, view, stop)
    for failure in failures:
        err.print(f"error: {printable(failure)}", markup=False, soft_wrap=True)
    counts = {
        "videos": state.videos,
        "stored": state.outcomes[None] - found,
        "found": found,
        "failed": state.failed,
        "seconds": round(view.seconds, 3),
    }
    print(json.dumps(counts) if as_json else _summary(counts, root), flush=True)
    raise typer.Exit(stop.exit_code or (1 if state.failed else 0))


def _whole_videos(items: Sequence[VideoItem]) -> list[VideoItem]:
    videos = dict.fromkeys(item.video for item in items)
    return [VideoItem(str(number), video, {}) for number, video in enumerate(videos)]


def _fill(
    items: Sequence[VideoItem],
    models: ModelLocation,
    options: ScoreOptions,
    workers: int,
    view: ProgressView,
    stop: StopSignals,
) -> tuple[JobProgress, int, list[str]]:
    """How it ended, how many videos had been in the store, and why others are not."""
    try:
        from sfavivit.scoring.job import JobProgress  # noqa: PLC0415 - pyarrow is heavy, and an extra
        from sfavivit.scoring.workers import score_in_workers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(f"features need {error.name}: pip install 'sfavivit[score]'") from None
    state, found, failures = JobProgress(len(items), 0), 0, []
    with closing(score_in_workers(items, models, models.catalog(), options, workers=workers)) as results:
        for rows in results:
            if rows:
                kind = rows[0].get("error_kind")
                state.outcomes[kind] += 1
                found += rows[0].get("decode_seconds") == 0
                failures += [str(rows[0]["error_message"])] if kind else []
            view.show(state)
            if stop():
                break
    return state, found, failures


def _summary(counts: dict[str, Any], root: Path) -> str:
    left = counts["videos"] - counts["stored"] - counts["found"] - counts["failed"]
    parts = [f"{counts['stored']} videos stored", f"{counts['found']} were there"]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    parts += [f"{left} are left: start again to go on"] if left else []
    return f"{root}: {', '.join(parts)}, in {timedelta(seconds=round(counts['seconds']))}"
