"""Videos to measure with, made by ffmpeg."""

from __future__ import annotations

import subprocess
from math import ceil
from pathlib import Path

from sfavivit.ffmpeg_program import find_ffmpeg

RATE = 25  # pictures a second
REPEAT_SECONDS = 20


def write_video(path: Path, seconds: float, size: str = "340x256") -> Path:
    """H.264 of ``size`` WIDTHxHEIGHT (default: as Kinetics is usually stored), 25 pictures a second.

    A longer one than 20 s repeats those, since encoding an hour would take minutes, and is longer than
    ``seconds`` by less than 20 s.
    """
    if seconds <= REPEAT_SECONDS:
        _encode(path, seconds, size)
        return path
    part = path.with_name(f"{path.stem}-part.mp4")
    _encode(part, REPEAT_SECONDS, size)
    repeats = str(ceil(seconds / REPEAT_SECONDS) - 1)
    _ffmpeg("-stream_loop", repeats, "-i", part, "-c", "copy", path)
    part.unlink()
    return path


def _encode(path: Path, seconds: float, size: str) -> None:
    picture = f"testsrc2=size={size}:rate={RATE}:duration={seconds:g}"
    encoder = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
    _ffmpeg("-f", "lavfi", "-i", picture, *encoder, path)


def _ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments], check=True)
