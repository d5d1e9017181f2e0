"""A scoring job that is killed again and again, against an undisturbed one."""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import psutil
import typer

from benchmarks.command_options import DEMO_MODEL, ModelRepository, Out, Seed
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.videos import run_ffmpeg, write_video
from sfavivit.scoring.parquet_parts import part_files, read_part

TIMINGS = ("decode_seconds", "spatial_seconds", "temporal_seconds", "total_seconds")
POLL_SECONDS = 0.02
PART_VIDEOS = 3
DISTINCT_VIDEOS = 30


def command(
    videos: Annotated[int, typer.Option(min=1, help="Number of short videos.")] = 300,
    broken: Annotated[int, typer.Option(min=0, help="Number of videos among them that are broken.")] = 30,
    kills: Annotated[int, typer.Option(min=0, help="Number of times that the job is killed.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the job.")] = 2,
    seed: Seed = 0,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """Compare the rows of a scoring job that is killed again and again with an undisturbed one's."""
    with TemporaryDirectory() as folder:
        rows = measure(
            repository, Path(folder), videos=videos, broken=broken, kills=kills, workers=workers, seed=seed
        )
    report("resume", rows, out)


def measure(
    repository: Path, folder: Path, *, videos: int, broken: int, kills: int, workers: int = 1, seed: int = 0
) -> list[Row]:
    """Score a corpus undisturbed, and again with ``kills`` SIGKILLs at random moments; compare the rows.

    ``scored at a kill``: videos on disk at that moment. ``lost``, ``twice``: videos without rows, or in two
    Parquet parts. ``vanished``: videos that had rows after a kill and none after a later one. ``differing``:
    rows unlike those of the undisturbed run, timings aside.
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
    """SIGKILLs at random moments.

    ``loading``: seconds until the first videos are scored; ``per_video``: seconds for each of ``videos``;
    ``kept``: ids of the videos on disk, at the start and after each kill.
    """

    videos: int
    loading: float
    per_video: float
    dice: random.Random
    jobs_killed: int = 0
    workers_killed: int = 0
    kept: list[set[str]] = field(default_factory=lambda: [set()])

    def run(self, job: _Job, kills: int) -> None:
        """Start and kill ``job``, ``kills`` times."""
        for left in range(kills, 0, -1):
            job.start()
            if self.dice.random() < 0.2:  # somewhere while the models load
                time.sleep(self.dice.uniform(0, self.loading))
            else:
                # By the parts written, not by the clock, which says little on a busy machine.
                share = (self.videos - len(self.kept[-1])) / (left + 1) / PART_VIDEOS
                job.wait_for_parts(1 + self.dice.randrange(max(1, round(1.5 * share))))
                time.sleep(self.dice.uniform(0, PART_VIDEOS * self.per_video))
                if self.dice.random() < 0.3:
                    self.workers_killed += job.kill_worker(self.dice)
                    time.sleep(self.dice.uniform(0, 0.5))
            self.jobs_killed += job.kill()
            self.kept.append(set(job.ids()))


class _Job:
    """Process of ``sfavivit score`` that writes small Parquet parts to ``out``."""

    def __init__(self, out: Path, manifest: Path, repository: Path, workers: int) -> None:
        self._out = out
        options = f"--workers {workers} --part-videos {PART_VIDEOS} --part-seconds 0.5 --json"
        command = [sys.executable, "-m", "sfavivit.cli.main", "score", str(manifest), "--out", str(out)]
        self._command = [*command, "--repository", str(repository), *options.split()]

    def start(self) -> None:
        self._parts = len(self._files())
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for_parts(self, count: int) -> None:
        """Wait until ``count`` more parts are there than at the start, or the job has ended."""
        while len(self._files()) < self._parts + count and self._process.poll() is None:
            time.sleep(POLL_SECONDS)

    def wait_for_end(self) -> None:
        _, errors = self._process.communicate()
        if self._process.returncode not in (0, 1):  # 1: some videos are broken
            raise RuntimeError(f"the job ended with exit code {self._process.returncode}: {errors.decode()}")

    def kill(self) -> int:
        """SIGKILL the job and return 1, or 0 if it had ended."""
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
        """Return the ids of the videos on disk, once for each part that they are in."""
        return [video for file in self._files() for video in set(read_part(file, ["id"])["id"].to_pylist())]

    def rows(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Return the rows without their timings, by (id, head, output)."""
        rows = [row for file in self._files() for row in read_part(file).drop_columns(TIMINGS).to_pylist()]
        return {(row["id"], row["head"], row["output"]): row for row in rows}

    def _files(self) -> list[Path]:
        return part_files(self._out) if self._out.is_dir() else []


def _noise(video: Path, target: Path) -> None:
    """Write the first bytes of a video, and random bytes after them."""
    content = video.read_bytes()
    target.write_bytes(content[:40] + random.Random(target.name).randbytes(len(content)))  # noqa: S311


BREAKAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut off before its index": lambda video, target: target.write_bytes(video.read_bytes()[:1500]),
    "noise": _noise,
    "empty": lambda _, target: target.touch(),
    "text": lambda _, target: target.write_text("this is no video\n" * 50),
    "playlist": lambda _, target: target.write_text("#EXTM3U\nhttp://localhost/video.ts\n"),
    "folder": lambda _, target: target.mkdir(),
    "missing": lambda _, target: None,
    "link to itself": lambda _, target: target.symlink_to(target),
    "sound only": lambda _, target: run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-f", "mp4", target),
    "header only": lambda video, target: target.write_bytes(video.read_bytes()[:64]),
}


def make_corpus(folder: Path, videos: int, broken: int, seed: int = 0) -> Path:
    """Write ``videos`` labelled videos, ``broken`` of them in the ways of ``BREAKAGES``; return their CSV."""
    folder.mkdir()
    originals = [
        write_video(folder / f"original{k}.mp4", 0.32 + 0.08 * (k % 4), "64x64", look=f"hue=h={12 * k}")
        for k in range(min(DISTINCT_VIDEOS, videos))
    ]
    victims = random.Random(seed).sample(range(videos), broken)  # noqa: S311
    ways = dict(zip(victims, cycle(BREAKAGES.values()), strict=False))
    manifest = folder / "videos.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "video", "label"))
        for number in range(videos):
            video = folder / f"video{number}.mp4"
            ways.get(number, shutil.copy)(originals[number % len(originals)], video)
            rows.writerow((f"v{number}", video.name, number % 3))
    return manifest
