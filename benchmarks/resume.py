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
from benchmarks.figures import Case, Figure, Row
from sfavivit.scoring.parquet_parts import part_files, read_part

TIMINGS = ("decode_seconds", "spatial_seconds", "temporal_seconds", "total_seconds")
POLL_SECONDS = 0.02
PART_VIDEOS = 3


def measure(
    repository: Path, folder: Path, *, videos: int, broken: int, kills: int, workers: int = 1, seed: int = 0
) -> list[Row]:
    """Score a corpus undisturbed, and again with ``kills`` SIGKILLs at random moments; compare the rows.

    ``scored at a kill``: how many videos were on disk then. ``lost``, ``twice``: videos without rows, or in
    two parts. ``vanished``: videos that had rows after a kill and not after a later one. ``differing``: rows
    that are not those of the undisturbed run, timings aside.
    """
    manifest = make_corpus(folder / "corpus", videos, broken, seed)
    alone = _Job(folder / "alone", manifest, repository, workers)
    start = time.monotonic()
    alone.start()
    alone.wait_for_parts(1)
    loading = time.monotonic() - start
    alone.wait_for_end()
    undisturbed = time.monotonic() - start

    killed = _Job(folder / "killed", manifest, repository, workers)
    start = time.monotonic()
    attack = _Attack(videos, loading, (undisturbed - loading) / videos, random.Random(seed))  # noqa: S311
    attack.run(killed, kills)
    killed.start()
    killed.wait_for_end()
    disturbed = time.monotonic() - start

    ids, expected, found = killed.ids(), alone.rows(), killed.rows()
    vanished = sum(len(before - after) for before, after in pairwise([*attack.kept, set(ids)]))
    differing = sum(expected.get(key) != found.get(key) for key in expected.keys() | found.keys())
    case: Case = {"videos": videos, "broken": broken, "kills": kills, "workers": workers, "seed": seed}
    figures = {
        "killed": Figure("jobs", "neither", (attack.jobs_killed,)),
        "also killed": Figure("workers", "neither", (attack.workers_killed,)),
        "lost": Figure("videos", "lower", (videos - len(set(ids)),)),
        "twice": Figure("videos", "lower", (len(ids) - len(set(ids)),)),
        "vanished": Figure("videos", "lower", (vanished,)),
        "differing": Figure("rows", "lower", (differing,)),
        "undisturbed": Figure("s", "lower", (undisturbed,)),
        "disturbed": Figure("s", "lower", (disturbed,)),
    }
    if kills:
        figures["scored at a kill"] = Figure("videos", "neither", tuple(map(len, attack.kept[1:])))
    return [Row(case, figures)]


@dataclass
class _Attack:
    """SIGKILLs at moments that ``dice`` choose. ``kept``: ids of the videos on disk, at first and after each.

    ``loading``: seconds until the first videos are scored; ``per_video``: seconds for each of ``videos``.
    """

    videos: int
    loading: float
    per_video: float
    dice: random.Random
    jobs_killed: int = 0
    workers_killed: int = 0
    kept: list[set[str]] = field(default_factory=lambda: [set()])

    def run(self, job: _Job, kills: int) -> None:
        """Start and kill ``job`` so often."""
        for left in range(kills, 0, -1):
            job.start()
            if self.dice.random() < 0.2:  # somewhere while the models load
                time.sleep(self.dice.uniform(0, self.loading))
            else:
                # By what is done, not by the clock, which says little on a busy machine.
                share = (self.videos - len(self.kept[-1])) / (left + 1) / PART_VIDEOS
                job.wait_for_parts(1 + self.dice.randrange(max(1, round(1.5 * share))))
                time.sleep(self.dice.uniform(0, PART_VIDEOS * self.per_video))
                if self.dice.random() < 0.3:
                    self.workers_killed += job.kill_worker(self.dice)
                    time.sleep(self.dice.uniform(0, 0.5))
            self.jobs_killed += job.kill()
            self.kept.append(set(job.ids()))


class _Job:
    """``sfavivit score`` into ``out``, in small parts."""

    def __init__(self, out: Path, manifest: Path, repository: Path, workers: int) -> None:
        self._out = out
        options = f"--workers {workers} --part-videos {PART_VIDEOS} --part-seconds 0.5 --json"
        command = [sys.executable, "-m", "sfavivit.cli.main", "score", str(manifest), "--out", str(out)]
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
