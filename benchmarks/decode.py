"""Cost of decoding: CPU seconds of ffmpeg and of the reader for a second of video."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command_options import Out, Rounds
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.measuring import cpu_seconds
from benchmarks.videos import RATE, write_video
from sfavivit.config import Sampling
from sfavivit.video.reader import VideoReader

# Picture size -> bit rate. The bit rate counts, since bits are what a decoder decodes; these are usual ones.
PICTURES = {"640x360": 1.0e6, "1920x1080": 5.0e6}
VIDEO_SECONDS = 20.0
SAMPLING = Sampling(fps=12.5, shortest_side=256, crop_size=224)  # of the published models
CHUNK_FRAMES = 16
LOOK = "noise=alls=12:allf=t"  # noise as of a camera, so that there are bits to decode


def command(rounds: Rounds = 5, out: Out = RESULTS) -> None:
    """Measure the CPU time and speed of decoding H.264 of two sizes."""
    costs: dict[str, list[tuple[float, float]]] = {picture: [] for picture in PICTURES}
    megabits = {}
    with TemporaryDirectory() as folder:
        for picture, bits in PICTURES.items():
            video, options = Path(folder) / f"{picture}.mp4", f"-b:v {bits:.0f}"
            write_video(video, VIDEO_SECONDS, picture, look=LOOK, options=options)
            megabits[picture] = 8e-6 * video.stat().st_size / VIDEO_SECONDS
        for _ in range(rounds):
            for picture, samples in costs.items():
                samples.append(_decode(Path(folder) / f"{picture}.mp4"))
    rows = []
    for picture, samples in costs.items():
        cpu, speed = zip(*samples, strict=True)
        figures = {
            "decode CPU": Figure("CPU s per video s", "lower", cpu),
            "speed": Figure("video s/s", "higher", speed),
            "bit rate": Figure("Mbit/s", "neither", (megabits[picture],)),
        }
        rows.append(Row({"codec": "h264", "picture": picture, "rate": RATE}, figures))
    report("decode", rows, out)


def _decode(video: Path) -> tuple[float, float]:
    """Decode as a recognizer does; return CPU seconds a second of video, and seconds of video a second."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    with VideoReader(video, SAMPLING, chunk_frames=CHUNK_FRAMES) as reader:
        for _ in reader:
            pass
    seconds = reader.frames_read / SAMPLING.fps
    return (cpu_seconds() - cpu) / seconds, seconds / (time.perf_counter() - wall)
