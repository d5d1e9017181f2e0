"""Videos to measure with, made by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.video.ffmpeg import find_ffmpeg

RATE = 25  # pictures a second
REPEAT_SECONDS = 20


def write_video(
    path: Path, seconds: float, size: str = "340x256", *, look: str = "", options: str = ""
) -> Path:
    """H.264 of ``size`` WIDTHxHEIGHT (default: as Kinetics is usually stored), 25 pictures a second.

    ``look``: ffmpeg's filters, by which no two videos need be alike; ``options``: more ones of the encoder.
    A longer one than 20 s repeats those, since encoding an hour would take minutes.

    Raises:
        UsageError: longer than 20 s, and not a multiple of them.
    """
    if seconds <= REPEAT_SECONDS:
        _encode(path, seconds, size, look, options)
        return path
    if seconds % REPEAT_SECONDS:
        raise UsageError(f"a video of {seconds:g} s cannot be made: more than 20 s must be a multiple of 20")
    part = path.with_name(f"{path.stem}-part.mp4")
    _encode(part, REPEAT_SECONDS, size, look, options)
    repeats = str(round(seconds) // REPEAT_SECONDS - 1)
    run_ffmpeg("-stream_loop", repeats, "-i", part, "-c", "copy", path)
    part.unlink()
    return path


def run_ffmpeg(*arguments: str | Path) -> None:
    """Its errors go to stderr; what is there is written over."""
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments], check=True)


def _encode(path: Path, seconds: float, size: str, look: str, options: str) -> None:
    picture = ",".join(filter(None, (f"testsrc2=size={size}:rate={RATE}:duration={seconds:g}", look)))
    encoder = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
    run_ffmpeg("-f", "lavfi", "-i", picture, *encoder.split(), *options.split(), path)
