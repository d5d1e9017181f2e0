"""What decoding costs: processor seconds for a second of video, of ffmpeg and of who reads its frames."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from benchmarks.figures import Figure, Row
from benchmarks.videos import RATE, write_video
from sfavivit.config import Sampling
from sfavivit.video.reader import VideoReader

# Bits a second that such pictures usually have on the web: as they are to be decoded, they matter.
PICTURES = {"640x360": 1.0e6, "1920x1080": 5.0e6}
SAMPLING = Sampling(fps=12.5, shortest_side=256, crop_size=224)  # as of the published models
CHUNK_FRAMES = 16
LOOK = "noise=alls=12:allf=t"  # so that there are bits to decode, as of a camera


def measure(folder: Path, video_seconds: float, rounds: int) -> list[Row]:
    """Decode an H.264 video of each size in turn, ``rounds`` times, as a recognizer does."""
    videos = {
        picture: write_video(
            folder / f"{picture}.mp4", video_seconds, picture, look=LOOK, options=f"-b:v {bits:.0f}"
        )
        for picture, bits in PICTURES.items()
    }
    costs: dict[str, list[tuple[float, float]]] = {picture: [] for picture in videos}
    for _ in range(rounds):
        for picture, video in videos.items():
            costs[picture].append(_decode(video))
    rows = []
    for picture, samples in costs.items():
        cpu, speed = zip(*samples, strict=True)
        figures = {
            "decode CPU": Figure("CPU s per video s", "lower", cpu),
            "speed": Figure("video s/s", "higher", speed),
            "bit rate": Figure("Mbit/s", "neither", (_megabits(videos[picture], video_seconds),)),
        }
        rows.append(Row({"codec": "h264", "picture": picture, "rate": RATE}, figures))
    return rows


def _decode(video: Path) -> tuple[float, float]:
    """CPU seconds for a second of video, and seconds of video in one of wall time."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    with VideoReader(video, SAMPLING, chunk_frames=CHUNK_FRAMES) as reader:
        for _ in reader:
            pass
    seconds = reader.frames_read / SAMPLING.fps
    return (_cpu_seconds() - cpu) / seconds, seconds / (time.perf_counter() - wall)


def _cpu_seconds() -> float:
    """Of this process, and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _megabits(video: Path, seconds: float) -> float:
    return 8e-6 * video.stat().st_size / seconds
