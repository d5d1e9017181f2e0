"""Peak memory of classifying a video, against its length and against the frames of a window."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import psutil
import typer

from benchmarks.command_options import DEMO_MODEL, SIZE_NAMES, Ints, ModelRepository, Out, Rounds
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.measuring import ratios
from benchmarks.models import random_repository
from benchmarks.videos import write_video
from sfavivit.cli.options import DeviceOption
from sfavivit.engines.device import Device

POLL_SECONDS = 0.02
MIB = 1 << 20
PICTURE = "640x360"
SHORT_SECONDS = 10
KERNEL_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def command(
    repository: ModelRepository = DEMO_MODEL,
    seconds: Annotated[
        Ints, typer.Option(min=1, help="Length of a video in seconds; repeatable (default: 10, 600, 3600).")
    ] = None,
    frames: Annotated[
        Ints, typer.Option(min=2, help="Frames in a window; repeatable (default: 8, 16, 32, 64, 128).")
    ] = None,
    size: Annotated[str, typer.Option(help=f"Size of the models with these windows: {SIZE_NAMES}.")] = "tiny",
    rounds: Rounds = 2,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure peak memory against the length of the video and the frames of a window."""
    peaks: dict[tuple[str, int], list[_Peaks]] = defaultdict(list)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        windows = {
            count: random_repository(folder / f"{size}-{count}", size, "fp32", frames=count)
            for count in frames or [8, 16, 32, 64, 128]
        }
        short = write_video(folder / "short.mp4", SHORT_SECONDS, PICTURE)
        for _ in range(rounds):
            for length in seconds or [10, 600, 3600]:
                video = write_video(folder / "long.mp4", length, PICTURE)
                peaks["video_seconds", length].append(_classify(repository, video, device))
            for count, model in windows.items():
                peaks["window_frames", count].append(_classify(model, short, device))
    first: dict[str, tuple[float, ...]] = {}
    rows = []
    for (what, value), found in peaks.items():
        process, tree, took = zip(*found, strict=True)
        figures = {
            "process": Figure("MiB", "lower", process),
            "with decoder": Figure("MiB", "lower", tree),
            "times the first": Figure("x", "lower", ratios(tree, first.setdefault(what, tree))),
            "time": Figure("s", "neither", took),
        }
        rows.append(Row({"against": what, "value": value}, figures))
    report("memory", rows, out)


class _Peaks(NamedTuple):
    """Peaks in MiB, of the Python process and of it with its decoder, and wall seconds."""

    process: float
    tree: float
    seconds: float


def _classify(repository: Path, video: Path, device: Device) -> _Peaks:
    command = [
        sys.executable,
        "-m",
        "sfavivit.cli.main",
        "classify",
        "--json",
        "--device",
        device,
        str(video),
    ]
    start = time.perf_counter()
    child = subprocess.Popen([*command, "--repository", str(repository)], stdout=subprocess.DEVNULL)
    process_peak = tree_peak = 0
    while child.poll() is None:
        process_peak = max(process_peak, _process_peak_bytes(child.pid))
        tree_peak = max(tree_peak, _tree_bytes(child.pid))
        time.sleep(POLL_SECONDS)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    seconds = time.perf_counter() - start
    return _Peaks(process_peak / MIB, max(tree_peak, process_peak) / MIB, seconds)


def _process_peak_bytes(pid: int) -> int:
    """Return the peak of the present program (``wait4`` would count the parent's memory before ``exec``)."""
    match = KERNEL_PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0  # none once it has ended


def _tree_bytes(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        total, command = process.memory_info().rss, process.cmdline()
        for child in process.children(recursive=True):
            if child.cmdline() != command:  # until its exec, a child only shares its parent's memory
                total += child.memory_info().rss
    except psutil.NoSuchProcess:  # one of them ended between two readings
        return 0
    return int(total)
