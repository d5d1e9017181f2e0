"""Training data of the demo model: short rendered clips, long ones, and windows of their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from examples.motions.rendering import (
    LABELS,
    MOTIONS,
    Floats,
    Frames,
    States,
    render,
    sample_scene,
    trajectory,
)
from sfavivit.config import Sampling

SAMPLING = Sampling(fps=12.5, shortest_side=64, crop_size=64)
SHORT_FRAMES, LONG_FRAMES, TUBELET_FRAMES = 8, 128, 2
# Frame rates of videos; the picture on display at a time is the last one before it.
SOURCE_FPS = (24.0, 25.0, 30.0, 60.0)
# Square, 4:3 and 16:9 worlds, of which the model sees the central square.
WORLD_WIDTHS, WORLD_SHARES = (1.0, 4 / 3, 16 / 9), (0.5, 0.4, 0.1)
STATE_VALUES = 12  # columns of state_targets


class ShortClips(NamedTuple):
    """Batch of stage I."""

    frames: Tensor  # uint8 [B, 8, 64, 64, 3]
    labels: Tensor  # int64 [B]
    states: Tensor  # float32 [B, T, STATE_VALUES]


class Windows(NamedTuple):
    """Batch of stage II."""

    features: Tensor  # float32 [B, T, D]
    targets: Tensor  # float32 [B, C], the share of the window that each motion fills


def display_times(count: int, rng: np.random.Generator) -> Floats:
    """Return times in seconds [count] at which the pictures decoded at ``SAMPLING.fps`` were taken."""
    source_fps = float(rng.choice(SOURCE_FPS))
    pictures: Floats = np.floor(np.arange(count) / SAMPLING.fps * source_fps + 1e-6)
    return pictures / source_fps


def training_clip(
    label: int, count: int, world_width: float, rng: np.random.Generator
) -> tuple[Frames, States]:
    """Draw a clip of ``count`` frames, uint8 [count, 64, 64, 3], and its states."""
    scene = sample_scene(rng, world_width)
    states = trajectory(scene.item, list(MOTIONS)[label], display_times(count, rng), rng)
    return render(scene, states, SAMPLING.crop_size, SAMPLING.crop_size, rng), states


def state_targets(states: States) -> NDArray[np.float32]:
    """Return the targets of stage I's read-out per tubelet, about in [-1, 1]: float32 [T, STATE_VALUES].

    They are position on the torus, size, change of position, angle and size from the first frame to the
    second, and colour.
    """

    def mean(values: Floats) -> Floats:
        return (values[0::2] + values[1::2]) / 2

    def change(values: Floats) -> Floats:
        return values[1::2] - values[0::2]

    x, y, size = 2 * np.pi * mean(states.x), 2 * np.pi * mean(states.y), np.log(states.size)
    columns = [np.sin(x), np.cos(x), np.sin(y), np.cos(y), 2 * mean(size) + 3.7]
    columns += [25 * change(states.x), 25 * change(states.y), 4 * change(states.angle)]
    columns += [np.clip(20 * change(size), -2, 2), *(2 * mean(states.colour) - 1).T]
    targets: NDArray[np.float32] = np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")
    return targets


@dataclass(frozen=True)
class ShortClipBatches(Dataset[ShortClips]):
    """Batches of stage I; every clip is new, so the training accuracy is one on held-out data."""

    seed: int
    steps: int
    batch_size: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ShortClips:
        rng = np.random.default_rng((self.seed, 1, step))
        labels = rng.integers(len(LABELS), size=self.batch_size)
        clips = [training_clip(int(label), SHORT_FRAMES, 1.0, rng) for label in labels]
        return ShortClips(
            torch.from_numpy(np.stack([frames for frames, _ in clips])),
            torch.from_numpy(labels),
            torch.from_numpy(np.stack([state_targets(states) for _, states in clips])),
        )


@dataclass(frozen=True)
class LongClips(Dataset[Tensor]):
    """Clips of stage II, uint8 [128, 64, 64, 3]; the label of clip i is i modulo the number of labels."""

    seed: int
    clips: int

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng((self.seed, 2, index))
        world_width = float(rng.choice(WORLD_WIDTHS, p=WORLD_SHARES))
        frames, _ = training_clip(index % len(LABELS), LONG_FRAMES, world_width, rng)
        return torch.from_numpy(frames)


def draw_windows(
    features: Tensor, labels: Tensor, batch: int, mixed_share: float, rng: torch.Generator
) -> Windows:
    """Draw random windows of stored clips [N, L, D], as serving shows them.

        plain    a prefix of any length, because the head answers while a clip is still arriving
        looped   a short section of a clip, repeated, as short videos are shown to the model
        mixed    one motion, then another: a window that slides over a longer video

    The target is the share of the window that each motion fills, so that the mean over the windows that
    cover a moment is largest for the motion of that moment.
    """
    clips, length, _ = features.shape

    def uniform(low: Tensor | int, high: Tensor | int) -> Tensor:
        """Draw integers [B] in [low, high]."""
        return (low + torch.rand(batch, generator=rng) * (high - low + 1)).long()

    full = bool(torch.rand((), generator=rng) < 0.5)
    tubelets = length if full else int(torch.randint(1, length + 1, (), generator=rng))
    at = torch.arange(tubelets)
    looped, mixed = torch.rand(2, batch, generator=rng) < torch.tensor([[0.3], [mixed_share]])
    part = torch.where(looped, uniform(min(4, length), length), length)
    start = uniform(0, length - part)
    first, second = uniform(0, clips - 1), uniform(0, clips - 1)
    cut = torch.where(mixed, uniform(0, tubelets - 1), tubelets)
    one = features[first[:, None], start[:, None] + at % part[:, None]]
    other = features[second[:, None], at.expand(batch, -1)]
    share = (cut / tubelets)[:, None]
    one_label, other_label = F.one_hot(labels[first], len(LABELS)), F.one_hot(labels[second], len(LABELS))
    return Windows(
        torch.where((at < cut[:, None])[..., None], one, other), share * one_label + (1 - share) * other_label
    )
