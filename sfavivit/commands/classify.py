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

from sfavivit import recognizer as pipeline
from sfavivit.app import printable
from sfavivit.commands.options import (
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
from sfavivit.console import recognition_view, terminal_width
from sfavivit.errors import SfaVivitError, UsageError
from sfavivit.recognizer import Recognizer
from sfavivit.results import Recognition
from sfavivit.video import Limits


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
) -> None:
    """Show the actions in videos: labels of the whole, and a timeline."""
    limits = limits_of(limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_memory_mib)
    recognizer = Recognizer.load(repository, engine=engine, threads=threads)
    recognizer.session(head, stride_seconds=stride, top_k=top_k)  # wrong options end here, before any video
    failures = 0
    for video in videos:
        try:
            with _progress(video) as progress:
                answer = recognizer.classify(
                    video, head, stride_seconds=stride, top_k=top_k, limits=limits, progress=progress
                )
            _show(answer, as_json=as_json)
        except UsageError:
            raise
        except SfaVivitError as error:
            failures += 1
            _show_failure(video, error, as_json=as_json)
    raise typer.Exit(1 if failures else 0)


@contextmanager
def _progress(video: str) -> Iterator[pipeline.Progress | None]:
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
