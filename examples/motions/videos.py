"""Video files of the motions: the sample video, and held-out clips with the accuracy on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from examples.motions.encoding import write_video
from examples.motions.rendering import LABELS, MOTIONS, Frames, Scene, render, sample_scene, trajectory
from sfavivit.engines.device import Device
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.recognizer import Recognizer
from training.progress import work_bar

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
    """Render an object that performs one motion after the other, given as (motion, seconds).

    Yields chunks of a second, uint8 [n, height, width, 3] at ``FPS``.
    """
    for motion, seconds in segments:
        states = trajectory(scene.item, motion, np.arange(round(seconds * FPS)) / FPS, rng)
        for start in range(0, len(states.x), FPS):
            yield render(scene, states[start : start + FPS], height, width, rng)


def write_sample(path: Path) -> None:
    """Write the video of ``make demo``: the motions of ``SAMPLE_SEGMENTS`` in one scene."""
    rng = np.random.default_rng(SAMPLE_SEED)
    scene = sample_scene(rng, SAMPLE_WIDTH / SAMPLE_HEIGHT)
    frames = motion_frames(scene, SAMPLE_SEGMENTS, SAMPLE_HEIGHT, SAMPLE_WIDTH, rng)
    write_video(path, frames, fps=FPS, crf=SAMPLE_CRF)


def write_held_out(path: Path, index: int) -> str:
    """Write held-out clip number ``index``, of random size and quality; return its label."""
    rng = np.random.default_rng((HELD_OUT_SEED, index))
    motion = list(MOTIONS)[index % len(MOTIONS)]
    height, width = HELD_OUT_SIZES[rng.integers(len(HELD_OUT_SIZES))]
    scene = sample_scene(rng, width / height)
    frames = motion_frames(scene, [(motion, HELD_OUT_SECONDS)], height, width, rng)
    write_video(path, frames, fps=FPS, crf=int(rng.integers(*HELD_OUT_CRF, endpoint=True)))
    return MOTIONS[motion]


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix int64 [C, C], label by answer."""

    counts: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    def mistakes(self) -> list[tuple[str, str, int]]:
        """Return (label, answer, times) of wrong answers, most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        return sorted(
            ((LABELS[i], LABELS[j], int(wrong[i, j])) for i, j in np.argwhere(wrong)), key=lambda m: -m[2]
        )


def judge(repository: Path, clips: int, device: Device) -> Confusion:
    """Classify held-out clips through the real path: H.264 in MP4 -> ffmpeg -> the repository's engines."""
    recognizer = Recognizer.load(repository, device=device)
    counts = np.zeros((len(LABELS), len(LABELS)), dtype=np.int64)
    with TemporaryDirectory() as folder, work_bar("held-out videos", clips) as progress:
        for index in range(clips):
            path = Path(folder) / "clip.mp4"
            label = write_held_out(path, index)
            answer = recognizer.classify(path, ClassifyOptions(top_k=1)).heads["default"][""].labels[0].label
            counts[LABELS.index(label), LABELS.index(answer)] += 1
            progress(index + 1)
    return Confusion(counts)
