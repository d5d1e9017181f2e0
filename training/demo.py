"""The demo model: a small SFA-ViViT that knows the twelve motions of ``synthetic`` and nothing else.

No published image checkpoint is small enough to start stage I from, so two things stand in for one:
``initialise_for_motion``, and a second loss in stage I, a linear read-out of the renderer's own state
(where the object is, how it changes) from each tubelet's feature. The read-out is then thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sfavivit.config import AdapterDimensions, ModelDimensions, TransformerDimensions
from sfavivit.models.vivit import SfaVivit
from training.config import OptimiserConfig
from training.demo_clips import (
    LONG_FRAMES,
    SAMPLING,
    SHORT_FRAMES,
    STATE_VALUES,
    TUBELET_FRAMES,
    LongClips,
    ShortClipBatches,
    ShortClips,
    Windows,
    draw_windows,
)
from training.hardware import fastest_dtype, make_fabric
from training.optimiser import Schedule
from training.stages import stage_two_model
from training.synthetic import LABELS
from training.trainer import StepResult, Trainer
from training.watch import RunningMean, StepProgress

FEATURE_BATCH = 8  # clips of 128 frames
WARMUP_STEPS = 100


@dataclass(frozen=True)
class DemoStage:
    """AdamW over ``steps`` batches of new clips, warmed up for a tenth of them at most."""

    steps: int
    batch_size: int
    learning_rate: float

    def scaled(self, share: float) -> Self:
        """The same with a share of the steps."""
        return replace(self, steps=max(1, round(share * self.steps)))

    def trainer(self, learner: nn.Module, seed: int) -> Trainer:
        """The common trainer, on the CPU."""
        optimiser = OptimiserConfig(
            name="adamw",
            learning_rate=self.learning_rate,
            epochs=1,
            batch_size=self.batch_size,
            weight_decay=0.05,
        )
        schedule = Schedule(self.steps, min(WARMUP_STEPS, self.steps // 10))
        fabric = make_fabric()
        return Trainer(fabric, learner, optimiser, schedule, seed=seed)


@dataclass(frozen=True)
class DemoConfig:
    """One full run of the recipe; the defaults made the committed model."""

    seed: int = 0
    hidden_size: int = 64
    heads: int = 4
    patch_size: int = 8
    spatial_layers: int = 2
    temporal_layers: int = 2
    stage_one: DemoStage = DemoStage(1500, 64, 2e-3)
    stage_two: DemoStage = DemoStage(2800, 64, 1e-3)
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


class ShortClipLearner(nn.Module):
    """Stage I: the motion, and the state of every tubelet, which ``read_out`` reads from its feature."""

    def __init__(self, model: SfaVivit, state_weight: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.state_weight, self.dtype = model, state_weight, dtype
        self.read_out = nn.Linear(model.dims.hidden_size, STATE_VALUES)

    def forward(self, batch: ShortClips) -> StepResult:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            features = self.model.spatial(batch.frames)
            logits = self.model.temporal(features)[""]
        state_loss = F.mse_loss(self.read_out(features.float()), batch.states)
        loss = F.cross_entropy(logits.float(), batch.labels) + self.state_weight * state_loss
        return _result(loss, logits, batch.labels)


class WindowLearner(nn.Module):
    """Stage II: adapter and temporal half, on stored features."""

    def __init__(self, model: SfaVivit) -> None:
        super().__init__()
        self.temporal = model.temporal

    def forward(self, batch: Windows) -> StepResult:
        logits = self.temporal(batch.features)[""]
        return _result(F.cross_entropy(logits, batch.targets), logits, batch.targets.argmax(1))


def _result(loss: Tensor, logits: Tensor, labels: Tensor) -> StepResult:
    right = logits.argmax(1) == labels
    return StepResult(loss, right.sum(), torch.tensor(len(right)))


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


def train_stage_one(config: DemoConfig, progress: StepProgress) -> tuple[SfaVivit, float]:
    """The whole model on ``SHORT_FRAMES`` frames; also the final accuracy."""
    torch.manual_seed(config.seed)
    model = SfaVivit(config.dimensions)
    initialise_for_motion(model)
    probe = torch.zeros(4, SHORT_FRAMES, *(SAMPLING.crop_size,) * 2, 3, dtype=torch.uint8)
    dtype = fastest_dtype(lambda: model(probe)[""].float().square().mean(), (torch.float32, torch.bfloat16))
    model.zero_grad()
    stage = config.stage_one
    batches = DataLoader(
        ShortClipBatches(config.seed, stage.steps, stage.batch_size),
        batch_size=None,
        num_workers=config.workers,
    )
    trainer = stage.trainer(ShortClipLearner(model, config.state_weight, dtype), config.seed)
    return model.eval(), _train(trainer, batches, progress)


def _train(trainer: Trainer, batches: Iterable[Any], progress: StepProgress) -> float:
    """Take all steps; the final running accuracy."""
    loss, accuracy = RunningMean(), RunningMean()
    for figures in trainer.steps([batch] for batch in batches):
        progress(figures.step + 1, loss.add(figures.loss), accuracy.add(figures.accuracy))
    return accuracy.value


@torch.no_grad()
def long_clip_features(model: SfaVivit, config: DemoConfig, progress: StepProgress) -> tuple[Tensor, Tensor]:
    """Features float32 [N, 64, D] and labels int64 [N] of the clips of stage II."""
    clips = DataLoader(
        LongClips(config.seed, config.stage_two_clips), batch_size=FEATURE_BATCH, num_workers=config.workers
    )
    features = []
    for done, frames in enumerate(clips, start=1):
        features.append(model.spatial(frames))
        progress(min(done * FEATURE_BATCH, config.stage_two_clips))
    return torch.cat(features), torch.arange(config.stage_two_clips) % len(LABELS)


def train_stage_two(
    model: SfaVivit, features: Tensor, labels: Tensor, config: DemoConfig, progress: StepProgress
) -> tuple[SfaVivit, float]:
    """Adapter and temporal half on the features of ``LONG_FRAMES`` frames; also the final accuracy."""
    torch.manual_seed(config.seed)
    adapter = AdapterDimensions(width=model.dims.hidden_size)
    extended = stage_two_model(model, LONG_FRAMES, adapter)
    rng = torch.Generator().manual_seed(config.seed)
    size = config.stage_two.batch_size

    def batches() -> Iterator[Windows]:
        while True:
            yield draw_windows(features, labels, size, config.mixed_share, rng)

    trainer = config.stage_two.trainer(WindowLearner(extended), config.seed)
    accuracy = _train(trainer, batches(), progress)
    return extended.eval(), accuracy
