"""The ``sfavivit features`` command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from sfavivit.cli import options as opt
from sfavivit.cli.progress import JobMonitor
from sfavivit.cli.render import on_devices, print_error, print_note
from sfavivit.datasets import VideoItem, read_items
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import UsageError
from sfavivit.features.entry import StoredDtype
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES, ModelLocation, ScoreOptions, Shard
from sfavivit.scoring.machines import this_machine
from sfavivit.scoring.stop import StopSignals
from sfavivit.video.limits import Limits


def features(
    manifest: opt.ListArgument,
    root: Annotated[Path, typer.Option("--store", help="Folder of the feature store, made if need be.")],
    repository: opt.RepositoryOption = opt.DEFAULT_REPOSITORY,
    dtype: Annotated[
        str | None, typer.Option(help="Data type of a new store: float32 (default) or float16.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Store each video of the list once, as a whole; see --align-to-tubelets of score.",
        ),
    ] = False,
    views: Annotated[
        str | None,
        typer.Option(metavar="TxS", help="Store the crops of multi-view scoring, such as 4x3."),
    ] = None,
    workers: opt.WorkersOption = None,
    shard: opt.ShardOption = "1/1",
    video_root: opt.ListRootOption = None,
    split: opt.SplitOption = None,
    as_json: opt.JsonSummaryOption = False,
    engine: opt.EngineOption = None,
    threads: opt.WorkerThreadsOption = None,
    device: opt.DeviceOption = "auto",
    video_track: opt.VideoTrackOption = None,
    limit_duration_seconds: opt.LimitDurationOption = Limits.duration_seconds,
    limit_pixels: opt.LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: opt.LimitStallOption = Limits.stall_seconds,
    limit_gap_seconds: opt.LimitGapOption = Limits.gap_seconds,
    limit_memory_mib: opt.LimitMemoryOption = Limits.memory_bytes // opt.MIB,
    limit_fetch_mib: opt.LimitFetchOption = DEFAULT_FETCH_BYTES // opt.MIB,
) -> None:
    """Compute the features that a store lacks, so that scoring with any head needs no video decoded."""
    limits = opt.limits_of(
        limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_gap_seconds, limit_memory_mib
    )
    share = Shard.parse(shard)
    listed = read_items(manifest, root=video_root, split=split, note=partial(print_note, opt.err))
    items = [item for item in (_whole_videos(listed) if whole else listed) if share.holds(item.id)]
    check_schemes(item.video for item in items)
    if dtype not in (None, *get_args(StoredDtype)):
        raise UsageError(f"dtype {dtype!r} must be {' or '.join(get_args(StoredDtype))}")
    machine = this_machine()
    workers = workers or machine.default_workers
    models = ModelLocation(repository, engine, threads or machine.cores_each(workers), device)
    catalog = models.catalog()
    FeatureStore(root, cast("StoredDtype | None", dtype))
    # A store is filled by scoring without keeping the rows: one clip with one head costs next to nothing.
    options = ScoreOptions(
        ClassifyOptions(
            tuple(catalog.manifest.heads)[:1], views=Views(1, Views.parse(views).crops if views else 1)
        ),
        limits=limits,
        store=str(root),
        fetch_bytes=limit_fetch_mib * opt.MIB,
        video_track=video_track,
    )
    try:
        from sfavivit.scoring.job import JobProgress, run_executor  # noqa: PLC0415 - pyarrow is heavy, and an extra
        from sfavivit.scoring.workers import score_in_workers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(f"features need {error.name}: pip install 'sfavivit[score]'") from None
    executor = partial(score_in_workers, models=models, catalog=catalog, options=options, workers=workers)
    state, outcome = JobProgress(len(items)), _Outcome()
    monitor, stop = JobMonitor("features", opt.err), StopSignals()
    with monitor.shown(), stop:
        run_executor(executor, items, state, outcome.take_rows, stopped=stop, on_progress=monitor.update)
    for failure in outcome.failures:
        print_error(opt.err, failure)
    counts = {
        "videos": state.videos,
        "stored": state.outcomes[None] - outcome.found,
        "found": outcome.found,
        "failed": state.failed,
        "seconds": round(monitor.seconds, 3),
        "devices": dict(state.devices),
    }
    print(json.dumps(counts) if as_json else _summary(counts, root), flush=True)
    raise typer.Exit(stop.exit_code or (1 if state.failed else 0))


@dataclass
class _Outcome:
    """Number of videos whose features the store had already, and error messages of those it still lacks."""

    found: int = 0
    failures: list[str] = field(default_factory=list)

    def take_rows(self, rows: list[dict[str, Any]]) -> None:
        """Count a video by its rows."""
        for row in rows[:1]:
            self.found += row.get("decode_seconds") == 0
            self.failures += [str(row["error_message"])] if row.get("error_kind") else []


def _whole_videos(items: Sequence[VideoItem]) -> list[VideoItem]:
    videos = {item.video: item for item in items}
    return [
        VideoItem(str(number), item.video, {}, looked_for=item.looked_for)
        for number, item in enumerate(videos.values())
    ]


def _summary(counts: dict[str, Any], root: Path) -> str:
    left = counts["videos"] - counts["stored"] - counts["found"] - counts["failed"]
    facts = [f"{counts['stored']} videos stored", f"{counts['found']} were there"]
    facts += [f"{counts['failed']} failed"] if counts["failed"] else []
    facts += [f"{left} are left: start again to go on"] if left else []
    return f"{root}: {', '.join(facts)}, in {timedelta(seconds=round(counts['seconds']))}{on_devices(counts)}"
