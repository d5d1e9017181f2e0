"""Videos to measure with, made by ffmpeg, and their frames."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import UsageError
from sfavivit.types import Frames
from sfavivit.video.ffmpeg import find_ffmpeg
from sfavivit.video.reader import VideoReader

RATE = 25  # frames a second
REPEAT_SECONDS = 20


def write_video(
    path: Path, seconds: float, size: str = "340x256", *, look: str = "", options: str = ""
) -> Path:
    """Write an H.264 test pattern of ``size`` WIDTHxHEIGHT (default: a usual one for Kinetics) at 25 fps.

    ``look``: ffmpeg filters, to make videos differ; ``options``: further encoder options. A video of more
    than 20 s repeats its first 20 s, since encoding an hour would take minutes.

    Raises:
        UsageError: longer than 20 s, and not a multiple of 20 s.
    """
    if seconds <= REPEAT_SECONDS:
        _encode(path, seconds, size, look, options)
        return path
    if seconds % REPEAT_SECONDS:
        raise UsageError(f"a video of {seconds:g} s cannot be made: more than 20 s must be a multiple of 20")
    repeated = path.with_name(f"{path.stem}-repeated.mp4")
    _encode(repeated, REPEAT_SECONDS, size, look, options)
    repeats = str(round(seconds) // REPEAT_SECONDS - 1)
    run_ffmpeg("-stream_loop", repeats, "-i", repeated, "-c", "copy", path)
    repeated.unlink()
    return path


def read_chunks(
    video: Path | str, sampling: Sampling, chunk_frames: int, crops: Sequence[Crop] = CENTER
) -> Iterator[Frames]:
    """Yield the frames of a video in chunks uint8 [chunk_frames, H, W, 3]; the last may be shorter."""
    with VideoReader(video, sampling, chunk_frames=chunk_frames, crops=crops) as reader:
        yield from reader


def random_frames(count: int, side: int, seed: int = 0) -> Frames:
    """Return noise, uint8 [count, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def run_ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg, which overwrites its output and prints errors alone."""
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments], check=True)


def _encode(path: Path, seconds: float, size: str, look: str, options: str) -> None:
    pattern = ",".join(filter(None, (f"testsrc2=size={size}:rate={RATE}:duration={seconds:g}", look)))
    encoder = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
    run_ffmpeg("-f", "lavfi", "-i", pattern, *encoder.split(), *options.split(), path)
