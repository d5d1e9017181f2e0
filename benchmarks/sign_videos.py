"""Synthetic videos whose class is the order of two signs six seconds apart, and pictures of other signs.

    second   0 - 0.7              3 - 6.2              6 - 6.7               9 - 9.9        10.24
    lamp     rest │  first sign   │  rest (or not)     │   second sign       │     rest      │

The class of a video is an ordered pair of different signs. Eight frames (0.64 s) show one of them at most, or
none: that narrows the class down, and says nothing about the order.

The class of a picture is its sign, one of many random ones. Pictures are drawn as the videos are, but none
shows a sign of the videos, and a picture has no order.
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
CRF = 12  # blocks of few pixels would not survive a usual one

SIGNS = ("0110 1111 1111 0110", "1001 0110 0110 1001", "1111 0000 1111 0000")
CELL = 4  # pixels of a sign's dot
ORDERS = list(permutations(range(len(SIGNS)), 2))
APART_SECONDS = 6.0
CONTRAST = 90.0  # of a sign with the lamp, in 8-bit values

PICTURE_SIGNS = 32
MIN_DIFFERENCE = 4  # dots of 16, between any two signs of pictures and to those of the videos
HELD_OUT_PICTURES = 1024


class Clips(NamedTuple):
    """Frames uint8 [N, F, 32, 32, 3] and classes int64 [N]; videos have F = 128 and indices of ``ORDERS``."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]


def draw_video(order: int, rng: np.random.Generator) -> Frames:
    """Draw a video of class ``order``, uint8 [128, 32, 32, 3], random in everything else."""
    first = rng.uniform(0, 0.7)
    second = first + APART_SECONDS
    ends = first + rng.uniform(3, 5.5), rng.uniform(9, 9.9)
    scene = _Scene(FRAMES, rng)
    seconds = np.arange(FRAMES) / FPS
    for sign, start, end in zip(ORDERS[order], (first, second), ends, strict=True):
        scene.show(dots_of(SIGNS[sign]), (seconds >= start) & (seconds < end))
    return scene.frames()


def dots_of(sign: str) -> NDArray[np.int64]:
    """Return the dots of a sign, [4, 4] of 0 and 1."""
    return np.array([[int(dot) for dot in row] for row in sign.split()])


class _Scene:
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
        """Show a sign [4, 4] in the frames of ``when`` bool [F]."""
        picture = np.kron(dots, np.ones((CELL, CELL)))[..., None]
        self._lamp[when] = self._brightness + CONTRAST * (picture - 0.5)

    def frames(self) -> Frames:
        """Return the frames with a camera's noise, uint8 [F, 32, 32, 3]."""
        return np.clip(self._video + self._rng.normal(0, 4, self._video.shape), 0, 255).astype(np.uint8)


def make_clips(path: Path, count: int, seed: int) -> Clips:
    """Return ``count`` videos of the classes in turn, written as .mp4 and read as training reads them.

    Their frames are kept in the file ``path`` (.npy), and taken from it where it exists.
    """
    labels = np.arange(count) % len(ORDERS)
    if not path.exists():
        partial = path.with_name(f".{path.name}.partial.npy")
        with TemporaryDirectory() as folder:
            np.save(partial, np.stack([_through_file(Path(folder), n, seed) for n in range(count)]))
        partial.replace(path)
    return Clips(np.load(path, mmap_mode="r"), labels)


def _through_file(folder: Path, number: int, seed: int) -> Frames:
    path = folder / f"{number}.mp4"
    write_example(path, number, seed)
    frames = read_clip(VideoItem(path.stem, str(path), {}), SAMPLING, FRAMES, at=0.0)
    path.unlink()
    return frames


def write_example(path: Path, number: int, seed: int) -> None:
    """Write video ``number`` of those of ``seed``."""
    video = draw_video(number % len(ORDERS), np.random.default_rng((seed, number)))
    write_video(path, [video], fps=FPS, crf=CRF)


def random_signs() -> list[NDArray[np.int64]]:
    """Return the signs of the pictures, each [4, 4] of 0 and 1; always the same."""
    rng = np.random.default_rng(0)
    signs: list[NDArray[np.int64]] = []
    taken = [dots_of(sign) for sign in SIGNS]
    while len(signs) < PICTURE_SIGNS:
        sign = rng.integers(0, 2, (4, 4))
        if all((sign != other).sum() >= MIN_DIFFERENCE for other in (*taken, *signs)):
            signs.append(sign)
    return signs


def draw_pictures(count: int, rng: np.random.Generator) -> Clips:
    """Draw ``count`` pictures of the signs in turn, as clips of one frame."""
    signs = random_signs()
    labels = np.arange(count) % PICTURE_SIGNS
    pictures = []
    for label in labels:
        scene = _Scene(1, rng)
        scene.show(signs[label], np.array([True]))
        pictures.append(scene.frames())
    return Clips(np.stack(pictures), labels)


def picture_sets(seed: int, count: int) -> tuple[Clips, Clips]:
    """Return ``count`` training pictures, and held-out ones that do not depend on ``count``."""
    training = draw_pictures(count, np.random.default_rng((seed, count)))
    return training, draw_pictures(HELD_OUT_PICTURES, np.random.default_rng((seed, HELD_OUT_PICTURES, 1)))
