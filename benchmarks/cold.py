"""Time from the start of a fresh process to its answer, as a whole and in parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.command_options import DEMO_MODEL, ModelRepository, Out
from benchmarks.figures import RESULTS, Row, report, seconds_figure
from benchmarks.first_answer import first_answer
from benchmarks.measuring import timed
from benchmarks.videos import write_video
from sfavivit.cli.options import DeviceOption
from sfavivit.engines import DEFAULT_ENGINE
from sfavivit.engines.model import MAX_CHUNK_TUBELETS
from sfavivit.repository.manifest import Repository

CLIP_SECONDS = 2
COMMAND = "sfavivit classify"


def command(
    repository: ModelRepository = DEMO_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Number of processes of each kind.")] = 10,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Time a fresh process until its answer for a clip of two seconds."""
    Repository.load(repository)  # an invalid one is reported here, not by a process
    location = str(repository.resolve())
    seconds: dict[str, list[float]] = {COMMAND: []}
    with TemporaryDirectory() as folder:
        clip = write_video(Path(folder) / "clip.mp4", CLIP_SECONDS)
        words = [sys.executable, "-m", "sfavivit.cli.main", "classify", str(clip), "--repository", location]
        words += ["--device", device]
        for _ in range(rounds):
            seconds[COMMAND].append(
                timed(lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))
            )
            # The parts are all that the command does, except reading its command line.
            parts = first_answer(location, clip, DEFAULT_ENGINE, MAX_CHUNK_TUBELETS, device)
            for part, took in parts.items():
                seconds.setdefault(f"of which: {part}", []).append(took)
    rows = [Row({"what": what}, {"time": seconds_figure(*took)}) for what, took in seconds.items()]
    report("cold", rows, out)
