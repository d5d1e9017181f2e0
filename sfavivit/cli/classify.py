"""``sfavivit classify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sfavivit.cli.options import (
    DEFAULT_REPOSITORY,
    MIB,
    EngineOption,
    HeadOption,
    LimitDurationOption,
    LimitMemoryOption,
    LimitPixelsOption,
    LimitStallOption,
    RepositoryOption,
    StrideOption,
    ThreadsOption,
    TopKOption,
    err,
    limits_of,
    out,
)
from sfavivit.cli.render import recognition_view, terminal_width
from sfavivit.errors import SfaVivitError, UsageError
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.recognizer import OnProgress, Recognizer
from sfavivit.inference.results import Recognition
from sfavivit.reports.request import ReportRequest
from sfavivit.reports.video_report import VideoReport, recorder_for, video_report
from sfavivit.utils.text import printable
from sfavivit.video.reader import Limits


def classify(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    head: HeadOption = None,
    top_k: TopKOption = 5,
    stride: StrideOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    limit_duration_seconds: LimitDurationOption = Limits.duration_seconds,
    limit_pixels: LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: LimitStallOption = Limits.stall_seconds,
    limit_memory_mib: LimitMemoryOption = Limits.memory_bytes // MIB,
    features: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Folder to take features from and keep them in.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the videos and timelines.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write a picture (.png, .svg, .pdf) of them."),
    ] = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Write the segments: .srt, .vtt, .csv, .json (ActivityNet); repeatable."
        ),
    ] = None,
) -> None:
    """Show the actions in videos: labels of the whole, and a timeline."""
    request = ReportRequest(report, plot, tuple(export or ()))
    request.check(len(videos))
    limits = limits_of(limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_memory_mib)
    recognizer = Recognizer.load(repository, engine=engine, threads=threads)
    options = ClassifyOptions(tuple(head or ()), stride_seconds=stride, top_k=top_k)
    options.resolve(recognizer.manifest)  # wrong options are refused before any video is opened
    store = FeatureStore(features) if features else None
    failures, reports = 0, []
    for video in videos:
        recorder = recorder_for(recognizer) if request else None
        try:
            with _progress(video) as progress:
                answer = recognizer.classify(
                    video,
                    options,
                    store=store,
                    limits=limits,
                    on_progress=progress,
                    on_window=recorder,
                )
            _show(answer, as_json=as_json)
            if recorder:
                reports.append(video_report(recognizer, answer, recorder))
        except UsageError:
            raise
        except SfaVivitError as error:
            failures += 1
            _show_failure(video, error, as_json=as_json)
            reports.append(VideoReport(video, error=error))
    request.write(reports, recognizer, limits)
    raise typer.Exit(1 if failures else 0)


@contextmanager
def _progress(video: str) -> Iterator[OnProgress | None]:
    """A bar on the terminal, gone when the video is done."""
    if not err.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        name = Text(printable(Path(video).name)).plain
        task = bar.add_task(name.replace("[", r"\["), total=None, at="")
        yield lambda done, total: bar.update(task, completed=done, total=total, at=f"{done:.0f} s")


def _show(answer: Recognition, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.to_json()), flush=True)
    else:
        out.print(recognition_view(answer, terminal_width(out)))


def _show_failure(video: str, error: SfaVivitError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"video": video, "error": {"kind": error.kind, "message": str(error)}}), flush=True)
    else:
        sys.stdout.flush()
        err.print(Text.assemble(("error: ", "bold red"), printable(str(error))), soft_wrap=True)
