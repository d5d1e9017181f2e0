"""Lists of short videos, some of them broken in different ways."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from benchmarks.videos import run_ffmpeg, write_video

DISTINCT_VIDEOS = 30


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
