"""Synthetic videos whose class is the order of two signs, six seconds apart.

    second   0 - 0.7              3 - 6.2              6 - 6.7               9 - 9.9        10.24
    lamp     rest │  first sign   │  rest (or not)     │   second sign       │     rest      │

A class is an ordered pair of different signs. Eight frames (0.64 s) show one of them at most, or none: that
says which classes it may be, and nothing about the order.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.motions.encoding import write_video
from examples.motions.rendering import Frames
from sfavivit.config import Sampling
from sfavivit.datasets import VideoItem
from training.clips import read_clip

FRAMES = 128
FPS = 12.5
SIZE = 32  # pixels, both ways
SAMPLING = Sampling(fps=FPS, shortest_side=SIZE, crop_size=SIZE)
CRF = 12  # a few blocks of pixels do not survive much

SIGNS = ("0110 1111 1111 0110", "1001 0110 0110 1001", "1111 0000 1111 0000")
CELL = 4  # pixels of a sign's dot
ORDERS = list(permutations(range(len(SIGNS)), 2))
APART_SECONDS = 6.0
CONTRAST = 90.0  # of a sign with the lamp, in 8-bit values


class Clips(NamedTuple):
    """Frames uint8 [N, F, 32, 32, 3] and classes int64 [N]: of videos 128, and numbers of ``ORDERS``."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]


def draw_video(order: int, rng: np.random.Generator) -> Frames:
    """A video of class ``order``: uint8 [128, 32, 32, 3]; everything else about it is random."""
    first = rng.uniform(0, 0.7)
    second = first + APART_SECONDS
    ends = first + rng.uniform(3, 5.5), rng.uniform(9, 9.9)
    scene = Scene(FRAMES, rng)
    seconds = np.arange(FRAMES) / FPS
    for sign, start, end in zip(ORDERS[order], (first, second), ends, strict=True):
        scene.show(dots_of(SIGNS[sign]), (seconds >= start) & (seconds < end))
    return scene.frames()


def dots_of(sign: str) -> NDArray[np.int64]:
    """[4, 4] of 0 and 1."""
    return np.array([[int(dot) for dot in row] for row in sign.split()])


class Scene:
    """A lamp of random brightness at a random place before a random grey, for some frames."""

    def __init__(self, frames: int, rng: np.random.Generator) -> None:
        self._rng = rng
        grey = rng.uniform(90, 160) + rng.uniform(-15, 15, 3)
        still = grey + rng.normal(0, 8, (1, SIZE, SIZE, 1))
        self._video: NDArray[np.floating[Any]] = np.repeat(still, frames, axis=0)
        side = 4 * CELL
        top, left = rng.integers(0, 3, 2) * (SIZE - side) // 2
        self._lamp = self._video[:, top : top + side, left : left + side]
        self._brightness = rng.uniform(60, 200)
        self._lamp[:] = self._brightness

    def show(self, dots: NDArray[np.int64], when: NDArray[np.bool_]) -> None:
        """A sign [4, 4] in the frames of ``when`` bool [F]."""
        picture = np.kron(dots, np.ones((CELL, CELL)))[..., None]
        self._lamp[when] = self._brightness + CONTRAST * (picture - 0.5)

    def frames(self) -> Frames:
        """uint8 [F, 32, 32, 3], with a camera's noise."""
        return np.clip(self._video + self._rng.normal(0, 4, self._video.shape), 0, 255).astype(np.uint8)


def make_clips(path: Path, count: int, seed: int) -> Clips:
    """``count`` videos of the classes in turn, written as .mp4 and read as training reads them.

    Their frames are kept in the file ``path`` (.npy), and taken from it where it exists.
    """
    labels = np.arange(count) % len(ORDERS)
    if not path.exists():
        part = path.with_name(f".{path.name}.part.npy")
        with TemporaryDirectory() as folder:
            np.save(part, np.stack([_through_file(Path(folder), n, seed) for n in range(count)]))
        part.replace(path)
    return Clips(np.load(path, mmap_mode="r"), labels)


def _through_file(folder: Path, number: int, seed: int) -> Frames:
    path = folder / f"{number}.mp4"
    write_example(path, number, seed)
    frames = read_clip(VideoItem(path.stem, str(path), {}), SAMPLING, FRAMES, at=0.0)
    path.unlink()
    return frames


def write_example(path: Path, number: int, seed: int) -> None:
    """The video number ``number`` of those of ``seed``."""
    video = draw_video(number % len(ORDERS), np.random.default_rng((seed, number)))
    write_video(path, [video], fps=FPS, crf=CRF)
