"""Cost of decoding: CPU seconds of ffmpeg and of the reader for a second of video."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command_options import Out, Rounds
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.measuring import Meter, ratios, run_in_turn
from benchmarks.videos import RATE, read_chunks, write_video
from sfavivit.config import Sampling

# Picture size -> bit rate. The bit rate counts, since bits are what a decoder decodes; these are usual ones.
PICTURES = {"640x360": 1.0e6, "1920x1080": 5.0e6}
VIDEO_SECONDS = 20.0
SAMPLING = Sampling(fps=12.5, shortest_side=256, crop_size=224)  # of the published models
CHUNK_FRAMES = 16
LOOK = "noise=alls=12:allf=t"  # noise as of a camera, so that there are bits to decode


def command(rounds: Rounds = 5, out: Out = RESULTS) -> None:
    """Measure the CPU time and speed of decoding H.264 of two sizes."""
    meters = {picture: Meter() for picture in PICTURES}
    with TemporaryDirectory() as folder:
        videos = {picture: Path(folder) / f"{picture}.mp4" for picture in PICTURES}
        for picture, bits in PICTURES.items():
            write_video(videos[picture], VIDEO_SECONDS, picture, look=LOOK, options=f"-b:v {bits:.0f}")
        megabits = {name: 8e-6 * video.stat().st_size / VIDEO_SECONDS for name, video in videos.items()}
        works = {picture: partial(_decoded_seconds, video) for picture, video in videos.items()}
        *_, seconds = run_in_turn(works, meters, rounds)
    rows = []
    for picture, meter in meters.items():
        lengths = [seconds[picture]] * rounds
        figures = {
            "decode CPU": Figure("CPU s per video s", "lower", ratios(meter.cpu, lengths)),
            "speed": Figure("video s/s", "higher", ratios(lengths, meter.wall)),
            "bit rate": Figure("Mbit/s", "neither", (megabits[picture],)),
        }
        rows.append(Row({"codec": "h264", "picture": picture, "rate": RATE}, figures))
    report("decode", rows, out)


def _decoded_seconds(video: Path) -> float:
    """Decode as a recognizer does; return the seconds of video."""
    return sum(map(len, read_chunks(video, SAMPLING, CHUNK_FRAMES))) / SAMPLING.fps
