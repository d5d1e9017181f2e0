"""``python -m client classify | stream | features | heads``: command-line client of a video service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from sfavivit.cli.options import HeadOption, StrideOption, TopKOption, VideoTrackOption, err, out
from sfavivit.cli.progress import progress_bar
from sfavivit.cli.render import show_failure, show_recognition
from sfavivit.cli.run import run_app
from sfavivit.errors import HeadNotFoundError, SfaVivitError, UsageError
from sfavivit.protocol.answers import Query, ServedRecognition, ServedWindow
from sfavivit.protocol.client import Tls, VideoRecognitionClient
from sfavivit.protocol.requests import PIECE_BYTES
from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.text import clock, printable
from sfavivit.video.source import open_source

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
TOKEN_VARIABLE = "SFAVIVIT_TOKEN"  # noqa: S105 - the name, not the token

Videos = Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
MinConfidence = Annotated[float, typer.Option(help="Omit labels of lower confidence, 0 to 1.")]
Start = Annotated[float, typer.Option(metavar="SECONDS", help="Start of the time range.")]
End = Annotated[float | None, typer.Option(metavar="SECONDS", help="End of the time range.")]


@app.callback()
def connect(
    context: typer.Context,
    server: Annotated[
        str, typer.Option(envvar="SFAVIVIT_SERVER", help="HOST:PORT of the service.")
    ] = "127.0.0.1:50051",
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS; trust the system's certificate authorities.")
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Use TLS; trust only the certificate authority in this PEM file.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM client certificate, for mutual TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of the client certificate.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token (or set {TOKEN_VARIABLE}).")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Give up on a video after so many seconds (default: never)."),
    ] = None,
) -> None:
    """Use a video service (`python -m serving`)."""

    def open_client() -> VideoRecognitionClient:
        encrypted = tls or tls_ca or tls_cert or tls_key
        return context.with_resource(
            VideoRecognitionClient(
                server,
                tls=Tls(tls_ca, tls_cert, tls_key) if encrypted else None,
                token=_token(token_file),
                timeout_seconds=timeout,
            )
        )

    context.obj = open_client  # not opened yet: a command may be asked for its help only


@app.command()
def classify(
    context: typer.Context,
    videos: Videos,
    head: HeadOption = None,
    top_k: TopKOption = 5,
    min_confidence: MinConfidence = 0.0,
    stride: StrideOption = None,
    start: Start = 0.0,
    end: End = None,
    video_track: VideoTrackOption = None,
    as_json: Json = False,
) -> None:
    """Upload videos and show their actions."""
    client: VideoRecognitionClient = context.obj()
    query = Query(tuple(head or ()), top_k, min_confidence, stride, start, end, video_track)

    def one(video: str) -> None:
        with progress_bar(Path(video).name, err, unit="bytes") as progress:
            answer = client.classify(video, query, progress=progress)
        show_recognition(answer, as_json=as_json)

    _each(videos, one, as_json=as_json)


@app.command()
def stream(
    context: typer.Context,
    videos: Videos,
    head: HeadOption = None,
    top_k: TopKOption = 1,
    min_confidence: MinConfidence = 0.0,
    stride: StrideOption = None,
    video_track: VideoTrackOption = None,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Seconds of video between provisional answers (default: until the first window is full).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Stream videos (`-`: standard input) and show answers while they are sent."""
    client: VideoRecognitionClient = context.obj()
    query = Query(tuple(head or ()), top_k, min_confidence, stride, video_track=video_track)

    def one(video: str) -> None:
        for answer in client.stream(_pieces(video), query, provisional_seconds=interval):
            if isinstance(answer, ServedRecognition):
                show_recognition(replace(answer, video=video), as_json=as_json)
            elif as_json:
                print(json.dumps({"video": video} | answer.to_json()), flush=True)
            else:
                out.print(_window_line(answer), soft_wrap=True)

    _each(videos, one, as_json=as_json)


@app.command()
def features(
    context: typer.Context,
    videos: Videos,
    folder: Annotated[Path, typer.Option(help="Folder for the files VIDEO.npy.")] = Path(),
    start: Start = 0.0,
    end: End = None,
    video_track: VideoTrackOption = None,
    as_json: Json = False,
) -> None:
    """Upload videos and save their features, one float32 [T, D] array each."""
    client: VideoRecognitionClient = context.obj()

    def one(video: str) -> None:
        with progress_bar(Path(video).name, err, unit="bytes") as progress:
            answer = client.extract_features(
                video, Query(start_seconds=start, end_seconds=end, video_track=video_track), progress=progress
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
            if answer.warning:
                print(f"warning: {printable(answer.warning)}")

    _each(videos, one, as_json=as_json)


@app.command()
def heads(context: typer.Context, as_json: Json = False) -> None:
    """List the heads of the service and their classes."""
    info = context.obj().list_heads()
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
    """Call ``work`` for every video, also after one has failed; exit 1 if any did."""
    failures = 0
    for video in videos:
        try:
            work(video)
        except (UsageError, HeadNotFoundError):
            raise
        except SfaVivitError as error:
            failures += 1
            show_failure(video, error, as_json=as_json)
    raise typer.Exit(1 if failures else 0)


def _window_line(window: ServedWindow) -> Text:
    best = ", ".join(f"{s.label} {s.confidence:.1%}" for labels in window.labels.values() for s in labels)
    times = f"{clock(window.start_seconds):>9} – {clock(window.end_seconds)}"
    return Text(f"{times}  {window.head}: {printable(best)}", "dim" if window.provisional else "")


def _pieces(video: str) -> Iterator[bytes]:
    """Yield the bytes of a file or of standard input as soon as they can be read."""
    with os.fdopen(os.dup(sys.stdin.fileno()) if video == "-" else open_source(video), "rb") as file:
        while piece := os.read(file.fileno(), PIECE_BYTES):
            yield piece


def _save(file: Path, array: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    content = BytesIO()
    np.save(content, array)
    try:
        atomic_write(file, content.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error


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
