"""Videos for the tests, made by the real ffmpeg, with pictures whose content can be checked."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfavivit.config import Sampling
from sfavivit.types import Frames
from sfavivit.video.ffmpeg import find_ffmpeg

SIDE = 64

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def sampling(fps: float = 12.5, side: int = SIDE) -> Sampling:
    """The whole of a square picture, so that nothing that the picture says is cropped away."""
    return Sampling(fps=fps, shortest_side=side, crop_size=side)


def ffmpeg(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run ffmpeg unconfined; its words are in the failure."""
    command = [find_ffmpeg().path, "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr.decode(errors='replace')}"


def encode(
    path: Path, frames: Frames, *, fps: float | str = 25, options: Sequence[str | Path] = H264
) -> Path:
    """``frames`` [F, H, W, 3] as a video of constant rate. ``options`` follow the input."""
    _, height, width, _ = frames.shape
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0")
    ffmpeg(*raw, *options, path, stdin=frames.tobytes())
    return path


def retimed(path: Path, to: Path, pts: str) -> Path:
    """Copy a video with other presentation times; ``pts`` in the terms of ffmpeg's filter setts."""
    ffmpeg("-i", path, "-c", "copy", "-bsf:v", f"setts=pts='{pts}':dts=DTS", to)
    return to


def numbered(count: int, first: int = 0, side: int = SIDE) -> Frames:
    """``count`` pictures that show their number as 16 black and white cells; uint8 [count, side, side, 3]."""
    numbers = np.arange(first, first + count)
    bits = (numbers[:, None] >> np.arange(16)) & 1
    cells = (bits.reshape(count, 4, 4) * 255).astype(np.uint8)
    cell = side // 4
    return np.repeat(cells.repeat(cell, 1).repeat(cell, 2)[..., None], 3, axis=3)


def numbers_shown(frames: Frames) -> list[int]:
    """Numbers that :func:`numbered` drew, read off the middle of each cell."""
    cell = frames.shape[1] // 4
    bits = frames[:, cell // 2 :: cell, cell // 2 :: cell, 1] > 127
    return [int(row @ (1 << np.arange(16))) for row in bits.reshape(len(frames), 16).astype(int)]


def quadrants(width: int, height: int) -> Frames:
    """One picture: red, green / blue, white, with the borders at half its width and height."""
    picture = np.zeros((1, height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture[0, :top, :left] = (255, 0, 0)
    picture[0, :top, left:] = (0, 255, 0)
    picture[0, top:, :left] = (0, 0, 255)
    picture[0, top:, left:] = (255, 255, 255)
    return picture


def disc(width: int, height: int, *, across: float, down: float) -> Frames:
    """One picture: a white ellipse of those diameters in pixels, centred on black."""
    y, x = np.mgrid[:height, :width]
    inside = ((x + 0.5 - width / 2) / (across / 2)) ** 2 + ((y + 0.5 - height / 2) / (down / 2)) ** 2 <= 1
    return np.repeat((inside * np.uint8(255)).astype(np.uint8)[None, ..., None], 3, axis=3)
