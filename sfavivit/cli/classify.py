"""The ``sfavivit classify`` command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli import options as opt
from sfavivit.cli.progress import progress_bar
from sfavivit.cli.render import show_failure, show_recognition
from sfavivit.errors import SfaVivitError, UsageError
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.recognizer import Recognizer
from sfavivit.reports.request import ReportRequest
from sfavivit.reports.video_report import VideoReport, recorder_for, video_report
from sfavivit.video.limits import Limits
from sfavivit.video.source import VideoSegment


def classify(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")],
    repository: opt.RepositoryOption = opt.DEFAULT_REPOSITORY,
    head: opt.HeadOption = None,
    top_k: opt.TopKOption = 5,
    stride: opt.StrideOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per video.")] = False,
    engine: opt.EngineOption = None,
    threads: opt.ThreadsOption = None,
    device: opt.DeviceOption = "auto",
    video_track: opt.VideoTrackOption = None,
    limit_duration_seconds: opt.LimitDurationOption = Limits.duration_seconds,
    limit_pixels: opt.LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: opt.LimitStallOption = Limits.stall_seconds,
    limit_gap_seconds: opt.LimitGapOption = Limits.gap_seconds,
    limit_memory_mib: opt.LimitMemoryOption = Limits.memory_bytes // opt.MIB,
    features: opt.FeaturesOption = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write an HTML page with the videos and their timelines."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the timelines as .png, .svg or .pdf."),
    ] = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Write the segments as .srt, .vtt, .csv or .json (ActivityNet); repeatable."
        ),
    ] = None,
) -> None:
    """Show the actions in videos: labels for the whole video, and a timeline."""
    request = ReportRequest(report, plot, tuple(export or ()))
    request.check(len(videos))
    limits = opt.limits_of(
        limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_gap_seconds, limit_memory_mib
    )
    recognizer = Recognizer.load(repository, engine=engine, threads=threads, device=device)
    options = ClassifyOptions(tuple(head or ()), stride_seconds=stride, top_k=top_k)
    options.resolve(recognizer.manifest)  # invalid options are refused before any video is opened
    store = FeatureStore(features) if features else None
    failures, reports = 0, []
    for video in videos:
        recorder = recorder_for(recognizer) if request else None
        try:
            with progress_bar(Path(video).name, opt.err, unit="s") as progress:
                answer = recognizer.classify(
                    VideoSegment(video, video_track=video_track),
                    options,
                    store=store,
                    limits=limits,
                    on_progress=progress,
                    on_scores=recorder,
                )
            show_recognition(answer, as_json=as_json)
            if recorder:
                made = video_report(recognizer, answer, recorder)
                reports.append(replace(made, video_track=video_track))
        except UsageError:
            raise
        except SfaVivitError as error:
            failures += 1
            show_failure(video, error, as_json=as_json)
            reports.append(VideoReport(video, error=error))
    request.write(reports, recognizer, limits)
    raise typer.Exit(1 if failures else 0)
