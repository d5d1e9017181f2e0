"""Options and consoles that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from sfavivit.video import Limits

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


def limits_of(duration_seconds: float, pixels: int, stall_seconds: float, memory_mib: int) -> Limits:
    """The limits that a command's options say. Raises ``UsageError`` for one that cannot be."""
    return Limits(
        stall_seconds=stall_seconds,
        pixels=pixels,
        duration_seconds=duration_seconds,
        memory_bytes=memory_mib * MIB,
    )
