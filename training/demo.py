"""The demo model: a small SFA-ViViT that knows the twelve motions of ``synthetic`` and nothing else.

No published image checkpoint is small enough to start stage I from, so two things stand in for one:
``initialise_for_motion``, and a second loss in stage I, a linear read-out of the renderer's own state
(where the object is, how it changes) from each tubelet's feature. The read-out is then thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sfavivit.dimensions import AdapterDimensions, ModelDimensions, TransformerDimensions
from sfavivit.model import SfaVivit
from sfavivit.video import Sampling
from training.recipe import (
    Progress,
    Schedule,
    fastest_dtype,
    optimise,
    spatial_features,
    stage_two_model,
)
from training.synthetic import LABELS, MOTIONS, Floats, Frames, States, render, sample_scene, trajectory

SAMPLING = Sampling(fps=12.5, shortest_side=64, crop_size=64)
SHORT_FRAMES, LONG_FRAMES, TUBELET_FRAMES = 8, 128, 2
# Videos are shown at these rates; what is on display at a time is the last picture before it.
SOURCE_FPS = (24.0, 25.0, 30.0, 60.0)
# Square, 4:3 and 16:9 worlds, of which the model sees the central square.
WORLD_WIDTHS, WORLD_SHARES = (1.0, 4 / 3, 16 / 9), (0.5, 0.4, 0.1)


@dataclass(frozen=True)
class DemoConfig:
    """One full run of the recipe; the defaults made the committed model."""

    seed: int = 0
    hidden_size: int = 64
    heads: int = 4
    patch_size: int = 8
    spatial_layers: int = 2
    temporal_layers: int = 2
    stage_one: Schedule = field(default_factory=lambda: Schedule(1500, 64, 2e-3))
    stage_two: Schedule = field(default_factory=lambda: Schedule(2800, 64, 1e-3))
    stage_two_clips: int = 7200
    state_weight: float = 2.0
    mixed_share: float = 0.4
    workers: int = 1

    def scaled(self, share: float) -> Self:
        """The same with a share of the steps and clips."""
        return replace(
            self,
            stage_one=self.stage_one.scaled(share),
            stage_two=self.stage_two.scaled(share),
            stage_two_clips=max(len(LABELS), round(share * self.stage_two_clips)),
        )

    @property
    def dimensions(self) -> ModelDimensions:
        """Of stage I: no adapter, positions for ``SHORT_FRAMES`` frames."""
        mlp = 4 * self.hidden_size
        return ModelDimensions(
            hidden_size=self.hidden_size,
            image_size=SAMPLING.crop_size,
            patch_size=self.patch_size,
            tubelet_frames=TUBELET_FRAMES,
            spatial=TransformerDimensions(self.spatial_layers, self.heads, mlp),
            temporal=TransformerDimensions(self.temporal_layers, self.heads, mlp),
            max_tubelets=SHORT_FRAMES // TUBELET_FRAMES,
            outputs=(("", len(LABELS)),),
        )


class ShortClips(NamedTuple):
    """A batch of stage I."""

    frames: Tensor  # uint8 [B, 8, 64, 64, 3]
    labels: Tensor  # int64 [B]
    states: Tensor  # float32 [B, T, STATE_VALUES]


class Windows(NamedTuple):
    """A batch of stage II."""

    features: Tensor  # float32 [B, T, D]
    targets: Tensor  # float32 [B, C], how much of the window each motion fills


def display_times(count: int, rng: np.random.Generator) -> Floats:
    """When the pictures that a decoder gives at ``SAMPLING.fps`` were taken: seconds [count]."""
    source_fps = float(rng.choice(SOURCE_FPS))
    pictures: Floats = np.floor(np.arange(count) / SAMPLING.fps * source_fps + 1e-6)
    return pictures / source_fps


def training_clip(
    label: int, count: int, world_width: float, rng: np.random.Generator
) -> tuple[Frames, States]:
    """A random clip of ``count`` frames as the model sees it, uint8 [count, 64, 64, 3], and its states."""
    scene = sample_scene(rng, world_width)
    states = trajectory(scene.item, list(MOTIONS)[label], display_times(count, rng), rng)
    return render(scene, states, SAMPLING.crop_size, SAMPLING.crop_size, rng), states


STATE_VALUES = 12  # columns of state_targets
FEATURE_BATCH = 8  # clips of 128 frames


def state_targets(states: States) -> NDArray[np.float32]:
    """What stage I reads out of each tubelet, scaled to about [-1, 1]: float32 [T, STATE_VALUES].

    Position on the torus, motion, turn and growth from the first frame to the second, size and colour.
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


class ShortClipBatches(Dataset[ShortClips]):
    """Batches of stage I: every clip is new, so the training accuracy is a held-out one."""

    def __init__(self, seed: int, schedule: Schedule) -> None:
        self.seed, self.schedule = seed, schedule

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> ShortClips:
        rng = np.random.default_rng((self.seed, 1, step))
        labels = rng.integers(len(LABELS), size=self.schedule.batch_size)
        clips = [training_clip(int(label), SHORT_FRAMES, 1.0, rng) for label in labels]
        return ShortClips(
            torch.from_numpy(np.stack([frames for frames, _ in clips])),
            torch.from_numpy(labels),
            torch.from_numpy(np.stack([state_targets(states) for _, states in clips])),
        )


class LongClips(Dataset[Tensor]):
    """Clips of stage II, uint8 [128, 64, 64, 3]; the label of clip i is i modulo the number of labels."""

    def __init__(self, seed: int, clips: int) -> None:
        self.seed, self.clips = seed, clips

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.clips:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, 2, index))
        world_width = float(rng.choice(WORLD_WIDTHS, p=WORLD_SHARES))
        frames, _ = training_clip(index % len(LABELS), LONG_FRAMES, world_width, rng)
        return torch.from_numpy(frames)


@torch.no_grad()
def initialise_for_motion(model: SfaVivit) -> None:
    """Start from positions that can be told apart, and half the patch filters blind to what stands still."""
    spatial, temporal = model.spatial.encoder, model.temporal.encoder
    side = model.dims.image_size // model.dims.patch_size
    line = _sine_positions(side, model.dims.hidden_size // 2)
    grid = torch.cat([line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], dim=-1)
    spatial.pos[0, 1:] = grid.flatten(0, 1)
    temporal.pos[0, 1:] = _sine_positions(model.dims.max_tubelets, model.dims.hidden_size)
    filters = model.spatial.patch_embed.weight.view(model.dims.hidden_size, TUBELET_FRAMES, -1)[::2]
    filters[:, 1] = -filters[:, 0]
    filters *= 3  # differences between frames are small where little moves


def _sine_positions(count: int, width: int) -> Tensor:
    """Sines and cosines of ``width / 2`` wavelengths, from 2 ``count`` down to 4: [count, width]."""
    cycles = torch.logspace(0, np.log2(max(1, count / 2)), width // 2, base=2) / 2
    angles = 2 * torch.pi * cycles * torch.arange(count)[:, None] / count
    return torch.cat([angles.sin(), angles.cos()], dim=1) / 2


def train_stage_one(config: DemoConfig, progress: Progress) -> tuple[SfaVivit, float]:
    """The whole model on ``SHORT_FRAMES`` frames; also the final accuracy."""
    torch.manual_seed(config.seed)
    model = SfaVivit(config.dimensions)
    initialise_for_motion(model)
    read_out = nn.Linear(config.hidden_size, STATE_VALUES)
    batches = DataLoader(
        ShortClipBatches(config.seed, config.stage_one), batch_size=None, num_workers=config.workers
    )

    def loss_and_accuracy(batch: ShortClips) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            features = model.spatial(batch.frames)
            logits = model.temporal(features)[""]
        state_loss = F.mse_loss(read_out(features.float()), batch.states)
        loss = F.cross_entropy(logits.float(), batch.labels) + config.state_weight * state_loss
        return loss, (logits.argmax(1) == batch.labels).float().mean()

    probe = torch.zeros(4, SHORT_FRAMES, *(SAMPLING.crop_size,) * 2, 3, dtype=torch.uint8)
    dtype = fastest_dtype(lambda: model(probe)[""].float().square().mean(), (torch.float32, torch.bfloat16))
    parameters = [*model.parameters(), *read_out.parameters()]
    _, accuracy = optimise(parameters, batches, loss_and_accuracy, config.stage_one, progress)
    return model.eval(), accuracy


def long_clip_features(model: SfaVivit, config: DemoConfig, progress: Progress) -> tuple[Tensor, Tensor]:
    """Features float32 [N, 64, D] and labels int64 [N] of the clips of stage II."""
    clips = DataLoader(
        LongClips(config.seed, config.stage_two_clips), batch_size=FEATURE_BATCH, num_workers=config.workers
    )

    def counted() -> Iterator[Tensor]:
        for done, frames in enumerate(clips, start=1):
            yield frames
            progress(min(done * FEATURE_BATCH, config.stage_two_clips))

    return spatial_features(model, counted()), torch.arange(config.stage_two_clips) % len(LABELS)


def draw_windows(features: Tensor, labels: Tensor, config: DemoConfig, rng: torch.Generator) -> Windows:
    """Random windows of stored clips [N, L, D], as serving meets them.

        plain    a prefix of any length, because the head answers while a clip is still arriving
        looped   a short part of a clip, over and over, as short videos are shown to the model
        mixed    one motion, then another: a window that slides over a longer video

    The target is the share of the window that each motion fills, so that the mean over the windows that
    cover a moment is largest for the motion of that moment.
    """
    (clips, length, _), batch = features.shape, config.stage_two.batch_size

    def uniform(low: Tensor | int, high: Tensor | int) -> Tensor:
        """Integers [B] in [low, high]."""
        return (low + torch.rand(batch, generator=rng) * (high - low + 1)).long()

    full = bool(torch.rand((), generator=rng) < 0.5)
    tubelets = length if full else int(torch.randint(1, length + 1, (), generator=rng))
    at = torch.arange(tubelets)
    looped, mixed = torch.rand(2, batch, generator=rng) < torch.tensor([[0.3], [config.mixed_share]])
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


def train_stage_two(
    model: SfaVivit, features: Tensor, labels: Tensor, config: DemoConfig, progress: Progress
) -> tuple[SfaVivit, float]:
    """Adapter and temporal half on the features of ``LONG_FRAMES`` frames; also the final accuracy."""
    torch.manual_seed(config.seed)
    adapter = AdapterDimensions(width=model.dims.hidden_size)
    extended = stage_two_model(model, LONG_FRAMES, adapter)
    rng = torch.Generator().manual_seed(config.seed)

    def batches() -> Iterator[Windows]:
        while True:
            yield draw_windows(features, labels, config, rng)

    def loss_and_accuracy(batch: Windows) -> tuple[Tensor, Tensor]:
        logits = extended.temporal(batch.features)[""]
        right = logits.argmax(1) == batch.targets.argmax(1)
        return F.cross_entropy(logits, batch.targets), right.float().mean()

    _, accuracy = optimise(extended.parameters(), batches(), loss_and_accuracy, config.stage_two, progress)
    return extended.eval(), accuracy
