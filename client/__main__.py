"""``python -m client classify | stream | features | heads``: use a video service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sfavivit.cli.render import recognition_view, terminal_width
from sfavivit.cli.run import run_app
from sfavivit.errors import HeadNotFoundError, SfaVivitError, UsageError
from sfavivit.protocol.answers import Query, ServedRecognition, ServedWindow
from sfavivit.protocol.client import Tls, VideoRecognitionClient
from sfavivit.protocol.requests import PIECE_BYTES
from sfavivit.utils.text import clock, printable
from sfavivit.video.source import open_source

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)
TOKEN_VARIABLE = "SFAVIVIT_TOKEN"  # noqa: S105 - the name, not the token

Videos = Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Heads = Annotated[list[str] | None, typer.Option(help="Head to ask; repeatable (default: all).")]
TopK = Annotated[int, typer.Option(help="Labels to show.")]
MinConfidence = Annotated[float, typer.Option(help="Leave out what is less sure, 0 to 1.")]
Stride = Annotated[float | None, typer.Option(metavar="SECONDS", help="Window to window.")]
Start = Annotated[float, typer.Option(metavar="SECONDS", help="Where in the video to start.")]
End = Annotated[float | None, typer.Option(metavar="SECONDS", help="Where in the video to stop.")]


@app.callback()
def connect(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="SFAVIVIT_SERVER", help="HOST:PORT.")] = "127.0.0.1:50051",
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt, by the system's list of authorities.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Encrypt; PEM of who signed the service.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate, for mutual TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token (or set {TOKEN_VARIABLE}).")
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="For each video.")] = None,
) -> None:
    """Ask a video service (`python -m serving`)."""
    encrypted = tls or tls_ca or tls_cert or tls_key
    context.obj = context.with_resource(
        VideoRecognitionClient(
            server,
            tls=Tls(tls_ca, tls_cert, tls_key) if encrypted else None,
            token=_token(token_file),
            timeout_seconds=timeout,
        )
    )


@app.command()
def classify(
    context: typer.Context,
    videos: Videos,
    head: Heads = None,
    top_k: TopK = 5,
    min_confidence: MinConfidence = 0.0,
    stride: Stride = None,
    start: Start = 0.0,
    end: End = None,
    as_json: Json = False,
) -> None:
    """Upload videos and show their actions."""
    query = Query(tuple(head or ()), top_k, min_confidence, stride, start, end)

    def one(video: str) -> None:
        with _upload_bar(video) as progress:
            answer = context.obj.classify(video, query, progress=progress)
        _show(answer, as_json=as_json)

    _each(videos, one, as_json=as_json)


@app.command()
def stream(
    context: typer.Context,
    videos: Videos,
    head: Heads = None,
    top_k: TopK = 1,
    min_confidence: MinConfidence = 0.0,
    stride: Stride = None,
    interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of video between provisional answers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send videos (`-`: standard input) and show answers while they are sent."""
    query = Query(tuple(head or ()), top_k, min_confidence, stride)

    def one(video: str) -> None:
        for answer in context.obj.stream(_pieces(video), query, provisional_seconds=interval):
            if isinstance(answer, ServedRecognition):
                _show(ServedRecognition(**vars(answer) | {"video": video}), as_json=as_json)
            elif as_json:
                print(json.dumps(_window_json(video, answer)), flush=True)
            else:
                out.print(_window_line(answer), soft_wrap=True)

    _each(videos, one, as_json=as_json)


@app.command()
def features(
    context: typer.Context,
    videos: Videos,
    folder: Annotated[Path, typer.Option(help="Where VIDEO.npy files go.")] = Path(),
    start: Start = 0.0,
    end: End = None,
    as_json: Json = False,
) -> None:
    """Upload videos and save their features, float32 [T, D] each."""

    def one(video: str) -> None:
        with _upload_bar(video) as progress:
            answer = context.obj.extract_features(
                video, Query(start_seconds=start, end_seconds=end), progress=progress
            )
        file = folder / f"{Path(video).name}.npy"
        _save(file, answer.features)
        fields = {
            "video": video,
            "features": str(file),
            "shape": list(answer.features.shape),
            "frames_used": answer.frames_used,
        }
        if as_json:
            warning = {"warning": answer.warning} if answer.warning else {}
            print(json.dumps(fields | warning), flush=True)
        else:
            print(
                f"{printable(str(file))}: {answer.features.shape[0]} tubelets of {answer.frames_used} frames"
            )

    _each(videos, one, as_json=as_json)


@app.command()
def heads(context: typer.Context, as_json: Json = False) -> None:
    """Show what there is to ask."""
    info = context.obj.list_heads()
    if as_json:
        rows = {
            name: {"version": head.version, "window_seconds": head.window_seconds, "outputs": head.outputs}
            for name, head in info.heads.items()
        }
        print(json.dumps({"model": info.model, "heads": rows, "model_digests": info.model_digests}))
        return
    table = Table("head", "version", "window", "output", "classes", box=None)
    for name, head in info.heads.items():
        for output, labels in head.outputs.items():
            table.add_row(name, str(head.version), f"{head.window_seconds:.2f} s", output, str(len(labels)))
    out.print(table)


def _each(videos: list[str], work: Callable[[str], None], *, as_json: bool) -> None:
    """Work on every video; one that fails does not keep the others from it. Exits 1 when some failed."""
    failures = 0
    for video in videos:
        try:
            work(video)
        except (UsageError, HeadNotFoundError):
            raise
        except SfaVivitError as error:
            failures += 1
            if as_json:
                fields = {"kind": error.kind, "message": str(error)}
                print(json.dumps({"video": video, "error": fields}), flush=True)
            else:
                sys.stdout.flush()
                line = f"{printable(video)}: {printable(str(error))}"
                err.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


def _show(answer: ServedRecognition, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.to_json()), flush=True)
    else:
        out.print(recognition_view(answer, terminal_width(out)))


def _window_json(video: str, window: ServedWindow) -> dict[str, Any]:
    return {
        "video": video,
        "head": window.head,
        "start_seconds": window.start_seconds,
        "end_seconds": window.end_seconds,
        "provisional": window.provisional,
        "frames_used": window.frames_used,
        "labels": {output: [vars(score) for score in labels] for output, labels in window.labels.items()},
    }


def _window_line(window: ServedWindow) -> Text:
    best = ", ".join(f"{s.label} {s.confidence:.1%}" for labels in window.labels.values() for s in labels)
    times = f"{clock(window.start_seconds):>9} – {clock(window.end_seconds)}"
    return Text(f"{times}  {window.head}: {printable(best)}", "dim" if window.provisional else "")


@contextmanager
def _upload_bar(video: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on the terminal while the video is sent."""
    if not err.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(printable(Path(video).name).replace("[", r"\["), total=None)
        yield lambda sent, size: bar.update(task, completed=sent, total=size)


def _pieces(video: str) -> Iterator[bytes]:
    """What can be read of a file, or of standard input, as soon as it can."""
    if video != "-":
        with os.fdopen(open_source(video), "rb") as file:
            yield from _read(file)
        return
    yield from _read(sys.stdin.buffer)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := os.read(file.fileno(), PIECE_BYTES):
        yield piece


def _save(file: Path, array: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """All of it or nothing."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, array)
        part.replace(file)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"token file {file} cannot be read: {error}") from error
    if not lines:
        raise UsageError(f"token file {file} is empty")
    return lines[0]


if __name__ == "__main__":
    run_app(app)
