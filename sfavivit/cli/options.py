"""Options and consoles that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from sfavivit.engines.device import Device
from sfavivit.video.limits import Limits

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

DEFAULT_REPOSITORY = "model_repository"
MIB = 1 << 20

RepositoryOption = Annotated[
    str,
    typer.Option(
        envvar="SFAVIVIT_REPOSITORY",
        help="Model repository (written by `python -m export` from a checkout), or triton://HOST:PORT of a "
        "Triton server that serves one.",
    ),
]
HeadOption = Annotated[list[str] | None, typer.Option(help="Head to run; repeatable (default: all).")]
TopKOption = Annotated[int, typer.Option(help="Number of labels to show for the whole video.")]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", metavar="STORE", help="Feature store to read from and to add to."),
]
StrideOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Seconds between windows (default: 1/8 of a window).")
]
EngineOption = Annotated[str | None, typer.Option(help="onnxruntime (default), or torch (the reference).")]
DeviceOption = Annotated[
    Device, typer.Option(help="cpu, cuda (an error where it cannot be used), or auto: cuda where it works.")
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads of the engine (default: all).")]
VideoTrackOption = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Number of the video track, from 0 (default: what ffmpeg prefers)."
    ),
]
LimitDurationOption = Annotated[float, typer.Option(help="Maximum length of a video in seconds.")]
LimitPixelsOption = Annotated[int, typer.Option(help="Maximum pixels of a frame (width x height).")]
LimitStallOption = Annotated[
    float, typer.Option(help="Maximum seconds of decoding, or of a download, without progress.")
]
LimitGapOption = Annotated[
    float, typer.Option(help="Maximum seconds of video without a new picture, as in a paused recording.")
]
LimitMemoryOption = Annotated[int, typer.Option(help="Maximum memory of the decoder process in MiB.")]

# Options of the commands that go through a list of videos.
ListArgument = Annotated[
    str,
    typer.Argument(
        help="List of videos: CSV, TSV, JSON Lines or Parquet with a column `video` (and label, id, "
        "start_seconds, end_seconds), lines of a path and a label, a dataset's annotation file, the URL of "
        "such a file, a folder, or - for paths on standard input."
    ),
]
ListRootOption = Annotated[
    str | None,
    typer.Option("--root", help="Folder or URL that relative paths start from (default: that of the list)."),
]
AlignOption = Annotated[
    bool,
    typer.Option(
        "--align-to-tubelets",
        help="Widen segments to whole tubelets, by less than one at each end, so that stored features of "
        "whole videos (sfavivit features --whole) serve all their segments.",
    ),
]
SplitOption = Annotated[str | None, typer.Option(help="Use only the videos of this split of a dataset.")]
ShardOption = Annotated[
    str, typer.Option(metavar="I/N", help="Use only shard I of N of the list, for N jobs side by side.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes (default: one for every two cores).")
]
WorkerThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each worker (default: cores / workers).")
]
JsonSummaryOption = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
LimitFetchOption = Annotated[int, typer.Option(min=1, help="Maximum size of a downloaded video in MiB.")]


def limits_of(
    duration_seconds: float, pixels: int, stall_seconds: float, gap_seconds: float, memory_mib: int
) -> Limits:
    """Return the decoding limits of a command. Raises ``UsageError`` for an invalid one."""
    return Limits(
        stall_seconds=stall_seconds,
        pixels=pixels,
        duration_seconds=duration_seconds,
        gap_seconds=gap_seconds,
        memory_bytes=memory_mib * MIB,
    )
