"""``sfavivit classify | inspect``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sfavivit import recognizer as pipeline
from sfavivit.app import printable, run_app
from sfavivit.console import recognition_view, repository_view, terminal_width
from sfavivit.errors import SfaVivitError, UsageError
from sfavivit.recognizer import Recognizer
from sfavivit.repository import Repository
from sfavivit.results import Recognition
from sfavivit.video import Limits

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

RepositoryOption = Annotated[
    str,
    typer.Option(
        envvar="SFAVIVIT_REPOSITORY",
        help="Model repository made by `python -m export`, or triton://HOST:PORT of a server that has it.",
    ),
]
DEFAULT_REPOSITORY = "model_repository"
MIB = 1 << 20


@app.callback()
def describe() -> None:
    """Long-video action recognition: every tubelet of a video is computed once."""


@app.command()
def classify(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    head: Annotated[list[str] | None, typer.Option(help="Head to ask; repeatable (default: all).")] = None,
    top_k: Annotated[int, typer.Option(help="Labels to show for the whole video.")] = 5,
    stride: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Window to window (default: 1/8 window)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="onnxruntime (default), or torch (the reference).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine (default: all).")] = None,
    limit_duration_seconds: Annotated[
        float, typer.Option(help="Refuse longer videos.")
    ] = Limits.duration_seconds,
    limit_pixels: Annotated[int, typer.Option(help="Refuse larger frames (width x height).")] = Limits.pixels,
    limit_stall_seconds: Annotated[
        float, typer.Option(help="Give up when the decoder makes no progress.")
    ] = Limits.stall_seconds,
    limit_memory_mib: Annotated[int, typer.Option(help="Address space of the decoder.")] = Limits.memory_bytes
    // MIB,
) -> None:
    """Show the actions in videos: labels of the whole, and a timeline."""
    limits = Limits(
        stall_seconds=limit_stall_seconds,
        pixels=limit_pixels,
        duration_seconds=limit_duration_seconds,
        memory_bytes=limit_memory_mib * MIB,
    )
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


@app.command()
def inspect(
    repository: Annotated[Path, typer.Argument(help="Model repository.")] = Path(DEFAULT_REPOSITORY),
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
) -> None:
    """Verify a model repository and show what is in it."""
    loaded = Repository.load(repository)
    if as_json:
        print(loaded.manifest.to_json(), end="")
    else:
        out.print(repository_view(loaded))


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


def main() -> None:
    """Entry point of the ``sfavivit`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
