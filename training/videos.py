"""The renderer's motions as .mp4 files: the sample video, and clips held out from training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.encoding import write_video
from training.synthetic import LABELS, MOTIONS, Frames, Scene, render, sample_scene, trajectory

FPS = 25
HELD_OUT_SECONDS = 10.24
HELD_OUT_SIZES = ((120, 160), (240, 240), (240, 320), (240, 426))  # height, width in pixels
HELD_OUT_CRF = (18, 30)
HELD_OUT_SEED = 1_000_003  # the training clips of no sensible --seed

SAMPLE_HEIGHT, SAMPLE_WIDTH, SAMPLE_CRF = 240, 320, 26
SAMPLE_SEED = 21
SAMPLE_SEGMENTS = (
    ("move_left", 10.0),
    ("rotate_clockwise", 10.0),
    ("bounce", 10.0),
    ("grow", 10.0),
    ("circle_counterclockwise", 10.0),
)


def motion_frames(
    scene: Scene, segments: Iterable[tuple[str, float]], height: int, width: int, rng: np.random.Generator
) -> Iterator[Frames]:
    """The scene's object doing one motion after the other, each for some seconds.

    Yields chunks of about a second, uint8 [n, height, width, 3] at ``FPS``.
    """
    for motion, seconds in segments:
        states = trajectory(scene.item, motion, np.arange(round(seconds * FPS)) / FPS, rng)
        for start in range(0, len(states.x), FPS):
            yield render(scene, states[start : start + FPS], height, width, rng)


def write_sample(path: Path) -> None:
    """The video of ``make demo``: the motions of ``SAMPLE_SEGMENTS`` in one scene."""
    rng = np.random.default_rng(SAMPLE_SEED)
    scene = sample_scene(rng, SAMPLE_WIDTH / SAMPLE_HEIGHT)
    frames = motion_frames(scene, SAMPLE_SEGMENTS, SAMPLE_HEIGHT, SAMPLE_WIDTH, rng)
    write_video(path, frames, fps=FPS, crf=SAMPLE_CRF)


def write_held_out(path: Path, index: int) -> str:
    """Held-out clip number ``index``, of random size and quality; returns its label."""
    rng = np.random.default_rng((HELD_OUT_SEED, index))
    motion = list(MOTIONS)[index % len(MOTIONS)]
    height, width = HELD_OUT_SIZES[rng.integers(len(HELD_OUT_SIZES))]
    scene = sample_scene(rng, width / height)
    frames = motion_frames(scene, [(motion, HELD_OUT_SECONDS)], height, width, rng)
    write_video(path, frames, fps=FPS, crf=int(rng.integers(*HELD_OUT_CRF, endpoint=True)))
    return MOTIONS[motion]


@dataclass(frozen=True)
class Confusion:
    """How often each label (row) was answered by each label (column)."""

    counts: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    def mistakes(self) -> list[tuple[str, str, int]]:
        """(label, answer, times), most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        return sorted(
            ((LABELS[i], LABELS[j], int(wrong[i, j])) for i, j in np.argwhere(wrong)), key=lambda m: -m[2]
        )


def measure_held_out(
    classify: Callable[[Path], str], clips: int, folder: Path, done: Callable[[int], None]
) -> Confusion:
    """Top-1 of ``classify`` (a video's path to its label) on held-out clips, through real .mp4 files.

    The clips are written to ``folder`` one at a time and deleted; ``done`` is told how many were judged.
    """
    counts = np.zeros((len(LABELS), len(LABELS)), dtype=np.int64)
    labels: Sequence[str] = LABELS
    for index in range(clips):
        path = folder / f"held-out-{index}.mp4"
        label = write_held_out(path, index)
        try:
            counts[labels.index(label), labels.index(classify(path))] += 1
        finally:
            path.unlink()
        done(index + 1)
    return Confusion(counts)
