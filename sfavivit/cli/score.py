"""The ``sfavivit score`` command."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfavivit.cli import options as opt
from sfavivit.cli.progress import JobMonitor
from sfavivit.cli.render import print_note, print_score_summary
from sfavivit.cli.run import debugging
from sfavivit.datasets import read_items
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import UsageError
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES, ModelLocation, Output, ScoreOptions, Shard
from sfavivit.scoring.machines import ray_cluster, this_machine
from sfavivit.scoring.stop import StopSignals
from sfavivit.utils.text import printable
from sfavivit.video.limits import Limits

if TYPE_CHECKING:
    from sfavivit.scoring.job import JobProgress


def score(
    manifest: opt.ListArgument,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the rows; videos that have rows there are skipped.")
    ],
    repository: opt.RepositoryOption = opt.DEFAULT_REPOSITORY,
    heads: Annotated[
        str | None, typer.Option(help="Names of the heads to run, separated by commas (default: all).")
    ] = None,
    workers: opt.WorkersOption = None,
    features: opt.FeaturesOption = None,
    align_to_tubelets: opt.AlignOption = False,
    views: Annotated[
        str | None, typer.Option(metavar="TxS", help="Average T clips x S crops, in place of a timeline.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Continue, or remove all rows of the folder first.")
    ] = True,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Score videos again whose rows have errors.")
    ] = False,
    shard: opt.ShardOption = "1/1",
    root: opt.ListRootOption = None,
    split: opt.SplitOption = None,
    top_k: opt.TopKOption = 5,
    stride: opt.StrideOption = None,
    as_json: opt.JsonSummaryOption = False,
    engine: opt.EngineOption = None,
    threads: opt.WorkerThreadsOption = None,
    device: opt.DeviceOption = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on a Ray cluster: local (started here), auto, or HOST:PORT."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write an HTML page of all rows in the folder.")
    ] = None,
    part_videos: Annotated[
        int, typer.Option(min=1, help="Videos after which a Parquet file is written.")
    ] = Output.part_videos,
    part_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds after which a Parquet file is written at the latest.")
    ] = Output.part_seconds,
    video_track: opt.VideoTrackOption = None,
    limit_duration_seconds: opt.LimitDurationOption = Limits.duration_seconds,
    limit_pixels: opt.LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: opt.LimitStallOption = Limits.stall_seconds,
    limit_gap_seconds: opt.LimitGapOption = Limits.gap_seconds,
    limit_memory_mib: opt.LimitMemoryOption = Limits.memory_bytes // opt.MIB,
    limit_fetch_mib: opt.LimitFetchOption = DEFAULT_FETCH_BYTES // opt.MIB,
) -> None:
    """Score a list of videos into Parquet files: each video once, however often it is restarted."""
    limits = opt.limits_of(
        limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_gap_seconds, limit_memory_mib
    )
    items = read_items(manifest, root=root, split=split, note=partial(print_note, opt.err))
    check_schemes(item.video for item in items)
    machines = ray_cluster(ray, debug=debugging()) if ray else this_machine()
    workers = workers or machines.default_workers
    models = ModelLocation(repository, engine, threads or machines.cores_each(workers), device)
    catalog = models.catalog()
    options = ScoreOptions(
        ClassifyOptions(
            _names(heads) or tuple(catalog.manifest.heads),
            stride_seconds=stride,
            top_k=top_k,
            views=Views.parse(views) if views else None,
        ),
        limits=limits,
        store=features,
        align_to_tubelets=align_to_tubelets,
        fetch_bytes=limit_fetch_mib * opt.MIB,
        video_track=video_track,
    )
    options.open_store()  # a store that cannot be used ends this before any worker starts
    try:
        # pyarrow is heavy, and an extra
        from sfavivit.reports.corpus_page import check_scores_report, write_scores_report  # noqa: PLC0415
        from sfavivit.scoring.job import score_list  # noqa: PLC0415
        from sfavivit.scoring.workers import score_in_workers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(f"scoring needs {error.name}: pip install 'sfavivit[score]'") from None
    output = Output(folder, Shard.parse(shard), not resume, retry_errors, part_videos, part_seconds)
    if report:
        check_scores_report(report, folder)
    score_videos: Callable[..., Generator[Any, None, None]] = score_in_workers
    if ray:
        from sfavivit.scoring.ray_executor import score_on_ray  # noqa: PLC0415 - heavy, and an extra

        score_videos = partial(score_on_ray, gpus=machines.gpus_each(workers))
    executor = partial(score_videos, models=models, catalog=catalog, options=options, workers=workers)
    monitor, stop = JobMonitor("scoring", opt.err), StopSignals()
    with monitor.shown():
        state, metrics = score_list(
            items, catalog, options, output, executor, stop=stop, on_progress=monitor.update
        )
    summary = _summary(state, monitor.seconds, metrics)
    if as_json:
        print(json.dumps(summary), flush=True)
    else:
        print_score_summary(opt.out, summary, printable(str(folder)))
    if report and not stop():
        write_scores_report(report, folder)
    raise typer.Exit(stop.exit_code or (1 if state.failed else 0))


def _summary(state: JobProgress, seconds: float, metrics: dict[str, Any] | None) -> dict[str, Any]:
    """Return the summary of a job as ``--json`` prints it."""
    scored = state.done - state.before
    return {
        "videos": state.videos,
        "done_before": state.before,
        "done_now": scored,
        "succeeded": state.outcomes[None],
        "failed": {kind: count for kind, count in state.outcomes.most_common() if kind is not None},
        "seconds": round(seconds, 3),
        "devices": dict(state.devices),
        "videos_per_second": round(scored / max(seconds, 1e-3), 3),
        "metrics": metrics,
    }


def _names(heads: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas, each once."""
    return tuple(dict.fromkeys(name for name in (heads or "").split(",") if name))
