"""Videos to measure with, made by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.ffmpeg_program import find_ffmpeg

RATE = 25  # pictures a second
REPEAT_SECONDS = 20


def write_video(path: Path, seconds: float, size: str = "340x256") -> Path:
    """H.264 of ``size`` WIDTHxHEIGHT (default: as Kinetics is usually stored), 25 pictures a second.

    A longer one than 20 s repeats those, since encoding an hour would take minutes.

    Raises:
        UsageError: longer than 20 s, and not a multiple of them.
    """
    if seconds <= REPEAT_SECONDS:
        _encode(path, seconds, size)
        return path
    if seconds % REPEAT_SECONDS:
        raise UsageError(f"a video of {seconds:g} s cannot be made: more than 20 s must be a multiple of 20")
    part = path.with_name(f"{path.stem}-part.mp4")
    _encode(part, REPEAT_SECONDS, size)
    repeats = str(round(seconds) // REPEAT_SECONDS - 1)
    _ffmpeg("-stream_loop", repeats, "-i", part, "-c", "copy", path)
    part.unlink()
    return path


def _encode(path: Path, seconds: float, size: str) -> None:
    picture = f"testsrc2=size={size}:rate={RATE}:duration={seconds:g}"
    encoder = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
    _ffmpeg("-f", "lavfi", "-i", picture, *encoder, path)


def _ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments], check=True)
