"""A fresh process answers a two-second clip: the command as users run it, and its parts."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Figure, Row
from benchmarks.first_answer import first_answer
from benchmarks.videos import write_video
from sfavivit.engines import DEFAULT_ENGINE
from sfavivit.inference.recognizer import CHUNK_TUBELETS

CLIP_SECONDS = 2
COMMAND = "sfavivit classify"


def measure(repository: Path, folder: Path, rounds: int) -> list[Row]:
    """``sfavivit classify`` from start to exit; in turn with it, a process that tells its parts apart.

    The parts (``benchmarks.first_answer``) are all that the command does but reading its command line.
    """
    clip = write_video(folder / "clip.mp4", CLIP_SECONDS)
    location = str(repository.resolve())
    seconds: dict[str, list[float]] = {COMMAND: []}
    for _ in range(rounds):
        seconds[COMMAND].append(_classify(location, clip))
        parts = asdict(first_answer(location, clip, DEFAULT_ENGINE, CHUNK_TUBELETS))
        for part, took in parts.items():
            seconds.setdefault(f"of which: {part}", []).append(took)
    return [
        Row({"what": what}, {"time": Figure("s", "lower", tuple(took))}) for what, took in seconds.items()
    ]


def _classify(location: str, clip: Path) -> float:
    command = [
        sys.executable,
        "-m",
        "sfavivit.cli.main",
        "classify",
        "--json",
        str(clip),
        "--repository",
        location,
    ]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
