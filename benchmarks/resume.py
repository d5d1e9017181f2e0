"""A scoring job that is killed again and again, against one that is left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.broken_videos import make_corpus
from sfavivit.scoring.parts import part_files, read_part

TIMINGS = ("decode_seconds", "spatial_seconds", "temporal_seconds", "total_seconds")
POLL_SECONDS = 0.02
PART_VIDEOS = 3


@dataclass
class ResumeResult:
    """``scored_at_kills``: how many videos were on disk after each kill.

    ``lost``, ``twice``: videos without rows, or in two parts. ``vanished``: videos that had rows after a kill
    and not after a later one. ``differing``: rows that are not those of the undisturbed run, timings aside.
    """

    videos: int
    broken: int
    kills: int = 0
    workers_killed: int = 0
    scored_at_kills: list[int] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    vanished: int = 0
    differing: int = 0
    undisturbed_seconds: float = 0.0
    disturbed_seconds: float = 0.0


def measure(
    repository: Path, folder: Path, *, videos: int, broken: int, kills: int, workers: int = 1, seed: int = 0
) -> ResumeResult:
    """Score a corpus undisturbed, and again with ``kills`` SIGKILLs at random moments; compare the rows."""
    manifest = make_corpus(folder / "corpus", videos, broken, seed)
    result = ResumeResult(videos, broken)
    alone, killed = _Job(folder / "alone", manifest, repository, workers), None
    start = time.monotonic()
    alone.start()
    alone.wait_for_parts(1)
    loading = time.monotonic() - start
    alone.wait_for_end()
    result.undisturbed_seconds = round(time.monotonic() - start, 1)
    per_video = (result.undisturbed_seconds - loading) / videos

    killed = _Job(folder / "killed", manifest, repository, workers)
    dice = random.Random(seed)  # noqa: S311
    start = time.monotonic()
    kept: list[set[str]] = [set()]
    for left in range(kills, 0, -1):
        killed.start()
        if dice.random() < 0.2:  # somewhere while the models load
            time.sleep(dice.uniform(0, loading))
        else:
            # By what is done, not by the clock, which says little on a busy machine.
            share = (videos - len(kept[-1])) / (left + 1) / PART_VIDEOS
            killed.wait_for_parts(1 + dice.randrange(max(1, round(1.5 * share))))
            time.sleep(dice.uniform(0, PART_VIDEOS * per_video))
            if dice.random() < 0.3:
                result.workers_killed += killed.kill_worker(dice)
                time.sleep(dice.uniform(0, 0.5))
        result.kills += killed.kill()
        kept.append(set(killed.ids()))
        result.scored_at_kills.append(len(kept[-1]))
    killed.start()
    killed.wait_for_end()
    result.disturbed_seconds = round(time.monotonic() - start, 1)

    ids = killed.ids()
    result.lost = videos - len(set(ids))
    result.twice = len(ids) - len(set(ids))
    result.vanished = sum(len(before - after) for before, after in pairwise([*kept, set(ids)]))
    expected, found = alone.rows(), killed.rows()
    result.differing = sum(expected.get(key) != found.get(key) for key in expected.keys() | found.keys())
    return result


class _Job:
    """``sfavivit score`` into ``out``, in small parts."""

    def __init__(self, out: Path, manifest: Path, repository: Path, workers: int) -> None:
        self._out = out
        options = f"--workers {workers} --part-videos {PART_VIDEOS} --part-seconds 0.5 --json"
        command = [sys.executable, "-m", "sfavivit.cli", "score", str(manifest), "--out", str(out)]
        self._command = [*command, "--repository", str(repository), *options.split()]

    def start(self) -> None:
        self._parts = len(self._files())
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for_parts(self, count: int) -> None:
        """Until there are so many more than at the start, or the job has ended."""
        while len(self._files()) < self._parts + count and self._process.poll() is None:
            time.sleep(POLL_SECONDS)

    def wait_for_end(self) -> None:
        _, errors = self._process.communicate()
        if self._process.returncode not in (0, 1):  # 1: some videos are broken
            raise RuntimeError(f"the job ended with exit code {self._process.returncode}: {errors.decode()}")

    def kill(self) -> int:
        """SIGKILL the job; how many there were: none if it had ended."""
        alive = self._process.poll() is None
        self._process.kill()
        self._process.communicate()
        return int(alive)

    def kill_worker(self, dice: random.Random) -> int:
        with suppress(psutil.NoSuchProcess, IndexError):
            children = psutil.Process(self._process.pid).children()
            dice.choice([child for child in children if "spawn_main" in " ".join(child.cmdline())]).kill()
            return 1
        return 0

    def ids(self) -> list[str]:
        """Of the videos that are on disk; one that is in two parts twice."""
        return [video for file in self._files() for video in set(read_part(file, ["id"])["id"].to_pylist())]

    def rows(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """(id, head, output) -> the row without its timings."""
        rows = [row for file in self._files() for row in read_part(file).drop_columns(TIMINGS).to_pylist()]
        return {(row["id"], row["head"], row["output"]): row for row in rows}

    def _files(self) -> list[Path]:
        return part_files(self._out) if self._out.is_dir() else []
