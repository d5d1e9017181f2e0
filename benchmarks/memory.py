"""Peak memory of classifying a video, against its length."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from sfavivit.ffmpeg_program import find_ffmpeg

CLIP_SECONDS = 10
POLL_SECONDS = 0.05
MIB = 1 << 20


@dataclass(frozen=True)
class MemoryResult:
    """Peaks are resident MiB: of the Python process as the kernel counted it, and of it with its decoder.

    The second is sampled every 50 ms, so a shorter peak can be missed.
    """

    video_seconds: int
    process_peak_mib: float
    tree_peak_mib: float
    wall_seconds: float


def measure(repository: Path, lengths_seconds: list[int], folder: Path) -> list[MemoryResult]:
    """Classify one video of each length (multiples of 10 s) in a process of its own."""
    clip = folder / "clip.mp4"
    source = f"testsrc2=size=640x360:rate=25:duration={CLIP_SECONDS}"
    _ffmpeg(
        "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", clip
    )
    results = []
    for seconds in lengths_seconds:
        video = folder / f"{seconds}.mp4"
        _ffmpeg("-stream_loop", str(seconds // CLIP_SECONDS - 1), "-i", clip, "-c", "copy", video)
        results.append(_classify(repository, video, seconds))
        video.unlink()
    return results


def _ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments], check=True)


def _classify(repository: Path, video: Path, seconds: int) -> MemoryResult:
    command = [sys.executable, "-m", "sfavivit.cli", "classify", "--json", str(video)]
    start = time.perf_counter()
    child = subprocess.Popen([*command, "--repository", str(repository)], stdout=subprocess.DEVNULL)
    tree_peak = 0
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        tree_peak = max(tree_peak, _tree_bytes(child.pid))
        time.sleep(POLL_SECONDS)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"classifying {video} ended with exit code {child.returncode}")
    wall = time.perf_counter() - start
    return MemoryResult(
        seconds, round(usage.ru_maxrss * 1024 / MIB, 1), round(tree_peak / MIB, 1), round(wall, 2)
    )


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:  # one of them ended between two looks
        return 0
    return total


def rows(results: list[MemoryResult]) -> list[dict[str, float]]:
    """Results with each peak over that of the first length."""
    first = results[0]
    return [
        asdict(result)
        | {
            "process_ratio": round(result.process_peak_mib / first.process_peak_mib, 3),
            "tree_ratio": round(result.tree_peak_mib / first.tree_peak_mib, 3),
        }
        for result in results
    ]
