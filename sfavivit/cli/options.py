"""Options and consoles that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from sfavivit.video.reader import Limits

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

DEFAULT_REPOSITORY = "model_repository"
MIB = 1 << 20

RepositoryOption = Annotated[
    str,
    typer.Option(
        envvar="SFAVIVIT_REPOSITORY",
        help="Model repository made by `python -m export`, or triton://HOST:PORT of a server that has it.",
    ),
]
HeadOption = Annotated[list[str] | None, typer.Option(help="Head to ask; repeatable (default: all).")]
TopKOption = Annotated[int, typer.Option(help="Labels to show for the whole video.")]
StrideOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Window to window (default: 1/8 window).")
]
EngineOption = Annotated[str | None, typer.Option(help="onnxruntime (default), or torch (the reference).")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads of the engine (default: all).")]
LimitDurationOption = Annotated[float, typer.Option(help="Refuse longer videos.")]
LimitPixelsOption = Annotated[int, typer.Option(help="Refuse larger frames (width x height).")]
LimitStallOption = Annotated[float, typer.Option(help="Give up when the decoder makes no progress.")]
LimitMemoryOption = Annotated[int, typer.Option(help="Address space of the decoder.")]

# Of commands that go through a list of videos.
ListArgument = Annotated[
    str,
    typer.Argument(
        help="Videos: CSV, JSON Lines or Parquet with a column `video` (and label, id, start_seconds, "
        "end_seconds), a dataset's annotation file, the URL of such a file, a folder, or - for paths on "
        "standard input."
    ),
]
ListRootOption = Annotated[
    str | None,
    typer.Option("--root", help="Folder or URL where relative paths start (default: that of the list)."),
]
SnapOption = Annotated[
    bool,
    typer.Option(
        "--snap",
        help="Widen parts to whole tubelets, by less than one at each end, so that features of whole videos "
        "(sfavivit features --whole) serve all their parts.",
    ),
]
SplitOption = Annotated[str | None, typer.Option(help="Only videos of this split of a dataset.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes (default: one for each two cores).")
]
WorkerThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each worker (default: cores / workers).")
]
JsonSummaryOption = Annotated[bool, typer.Option("--json", help="The summary as JSON.")]
LimitFetchOption = Annotated[int, typer.Option(min=1, help="Refuse to fetch larger videos.")]


def limits_of(duration_seconds: float, pixels: int, stall_seconds: float, memory_mib: int) -> Limits:
    """The limits that a command's options say. Raises ``UsageError`` for one that cannot be."""
    return Limits(
        stall_seconds=stall_seconds,
        pixels=pixels,
        duration_seconds=duration_seconds,
        memory_bytes=memory_mib * MIB,
    )
