"""``sfavivit score``."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
    SnapOption,
    SplitOption,
    StrideOption,
    TopKOption,
    WorkersOption,
    WorkerThreadsOption,
    err,
    limits_of,
    out,
)
from sfavivit.cli.progress import ProgressView, print_summary, summary_fields
from sfavivit.datasets import read_items
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import UsageError
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.machines import ray_cluster, this_machine
from sfavivit.scoring.options import DEFAULT_FETCH_BYTES, ModelLocation, Output, ScoreOptions, Shard
from sfavivit.scoring.stop import StopSignals
from sfavivit.utils.text import printable
from sfavivit.video.reader import Limits


def score(
    manifest: ListArgument,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the rows. What is in it already is not scored again.")
    ],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    heads: Annotated[
        str | None, typer.Option(help="Heads to ask, with commas between (default: all).")
    ] = None,
    workers: WorkersOption = None,
    features: Annotated[
        str | None, typer.Option(metavar="STORE", help="Take features from this store, and keep them there.")
    ] = None,
    snap: SnapOption = False,
    views: Annotated[
        str | None, typer.Option(metavar="TxS", help="Mean of T clips x S crops, instead of a timeline.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on, or remove all rows of the folder first.")
    ] = True,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Score videos again whose rows have errors.")
    ] = False,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Only part I of N of the list, for N jobs on one folder.")
    ] = "1/1",
    root: ListRootOption = None,
    split: SplitOption = None,
    top_k: TopKOption = 5,
    stride: StrideOption = None,
    as_json: JsonSummaryOption = False,
    engine: EngineOption = None,
    threads: WorkerThreadsOption = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: local (its own), auto, or HOST:PORT."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page of all rows in the folder.")
    ] = None,
    part_videos: Annotated[
        int, typer.Option(min=1, help="Write a part after so many videos,")
    ] = Output.part_videos,
    part_seconds: Annotated[
        float, typer.Option(min=0, help="or so long after the first.")
    ] = Output.part_seconds,
    limit_duration_seconds: LimitDurationOption = Limits.duration_seconds,
    limit_pixels: LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: LimitStallOption = Limits.stall_seconds,
    limit_memory_mib: LimitMemoryOption = Limits.memory_bytes // MIB,
    limit_fetch_mib: LimitFetchOption = DEFAULT_FETCH_BYTES // MIB,
) -> None:
    """Score a list of videos into Parquet files: each once, however often this is stopped and started."""
    limits = limits_of(limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_memory_mib)
    items = read_items(manifest, root=root, split=split)
    check_schemes(item.video for item in items)
    machines = ray_cluster(ray) if ray else this_machine()
    workers = workers or max(1, machines.cores // 2)
    models = ModelLocation(repository, engine, threads or machines.cores_each(workers))
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
        snap=snap,
        fetch_bytes=limit_fetch_mib * MIB,
    )
    options.open_store()  # a store that cannot be used ends this before any worker starts
    try:
        # pyarrow is heavy, and an extra
        from sfavivit.reports.corpus import check_scores_report, write_scores_report  # noqa: PLC0415
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
    view, stop = ProgressView(err, "scoring"), StopSignals()
    with view.drawn():
        state, metrics = score_list(items, catalog, options, output, executor, stop=stop, progress=view.show)
    fields = summary_fields(state, view.seconds, metrics)
    if as_json:
        print(json.dumps(fields), flush=True)
    else:
        print_summary(out, fields, printable(str(folder)))
    if report and not stop():
        write_scores_report(report, folder)
    raise typer.Exit(stop.exit_code or (1 if state.failed else 0))


def _names(heads: str | None) -> tuple[str, ...]:
    """The heads of a list with commas, each once."""
    return tuple(dict.fromkeys(name for name in (heads or "").split(",") if name))
