"""Peak memory of classifying a video, against its length and against the frames of a window."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.figures import Case, Figure, Row
from benchmarks.videos import write_video

POLL_SECONDS = 0.02
MIB = 1 << 20
SIZE = "640x360"
SHORT_SECONDS = 10
KERNEL_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass
class _Peaks:
    """MiB of each round: of the Python process, and of it with its decoder; and how long it took."""

    process: list[float] = field(default_factory=list)
    tree: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def measure(
    repository: Path, windows: dict[int, Path], lengths_seconds: list[int], folder: Path, rounds: int
) -> list[Row]:
    """Classify videos of each length with ``repository``, and ten seconds with each of ``windows``.

    ``windows``: frames of a window -> a repository of such a model. Every video is classified in a process of
    its own. The process's peak is the kernel's count as it was seen last, at most 20 ms before the end; with
    its decoder it is the most that was seen at any of those moments, so a shorter peak can be missed.
    """
    short = write_video(folder / "short.mp4", SHORT_SECONDS, SIZE)
    peaks: dict[tuple[str, int], _Peaks] = {}
    for _ in range(rounds):
        for seconds in lengths_seconds:
            video = write_video(folder / "long.mp4", seconds, SIZE)
            _classify(repository, video, peaks.setdefault(("video_seconds", seconds), _Peaks()))
        for frames, model in windows.items():
            _classify(model, short, peaks.setdefault(("window_frames", frames), _Peaks()))
    first = {what: found for (what, _), found in reversed(peaks.items())}
    return [
        _row({"against": what, "value": value}, found, first[what]) for (what, value), found in peaks.items()
    ]


def _classify(repository: Path, video: Path, peaks: _Peaks) -> None:
    command = [sys.executable, "-m", "sfavivit.cli.main", "classify", "--json", str(video)]
    start = time.perf_counter()
    child = subprocess.Popen([*command, "--repository", str(repository)], stdout=subprocess.DEVNULL)
    process_peak = tree_peak = 0
    while child.poll() is None:
        process_peak = max(process_peak, _process_peak_bytes(child.pid))
        tree_peak = max(tree_peak, _tree_bytes(child.pid))
        time.sleep(POLL_SECONDS)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    peaks.seconds.append(time.perf_counter() - start)
    peaks.process.append(process_peak / MIB)
    peaks.tree.append(max(tree_peak, process_peak) / MIB)


def _process_peak_bytes(pid: int) -> int:
    """Of the program that runs in it: ``wait4`` would count the parent's memory before ``exec`` as well."""
    match = KERNEL_PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0  # none once it has ended


def _tree_bytes(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        total, command = process.memory_info().rss, process.cmdline()
        for child in process.children(recursive=True):
            if child.cmdline() != command:  # until it becomes another program it only shares its parent's
                total += child.memory_info().rss
    except psutil.NoSuchProcess:  # one of them ended between two looks
        return 0
    return int(total)


def _row(case: Case, peaks: _Peaks, first: _Peaks) -> Row:
    ratios = tuple(one / other for one, other in zip(peaks.tree, first.tree, strict=True))
    return Row(
        case,
        {
            "process": Figure("MiB", "lower", tuple(peaks.process)),
            "with decoder": Figure("MiB", "lower", tuple(peaks.tree)),
            "times the first": Figure("x", "lower", ratios),
            "time": Figure("s", "neither", tuple(peaks.seconds)),
        },
    )
