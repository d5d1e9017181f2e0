"""Training of the demo model: a small SFA-ViViT that knows the twelve motions and nothing else.

No published image checkpoint is small enough to start stage I from, so two things replace it:
``initialise_for_motion``, and an auxiliary loss in stage I, a linear read-out of the renderer's state (where
the object is, how it changes) from each tubelet's feature. The read-out is discarded afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.motions.clips import (
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
from examples.motions.rendering import LABELS
from sfavivit.config import AdapterDimensions, ModelDimensions, TransformerDimensions
from sfavivit.models.vivit import SfaVivit
from training.config import OptimiserConfig
from training.hardware import make_fabric
from training.optimiser import Schedule
from training.stages import copy_temporal
from training.trainer import StepProgress, StepResult, Trainer

FEATURE_BATCH = 8  # clips of 128 frames
WARMUP_STEPS = 100


@dataclass(frozen=True)
class DemoStage:
    """A stage: AdamW over ``steps`` batches of new clips, warmed up for at most a tenth of them."""

    steps: int
    batch_size: int
    learning_rate: float

    def scaled(self, factor: float) -> Self:
        """Return the stage with the number of steps scaled."""
        return replace(self, steps=max(1, round(factor * self.steps)))

    def trainer(self, module: nn.Module, seed: int) -> Trainer:
        """Return the common trainer on the CPU."""
        optimiser = OptimiserConfig(
            name="adamw",
            learning_rate=self.learning_rate,
            epochs=1,
            batch_size=self.batch_size,
            weight_decay=0.05,
        )
        schedule = Schedule(self.steps, min(WARMUP_STEPS, self.steps // 10))
        return Trainer(make_fabric(), module, optimiser, schedule, seed=seed)


@dataclass(frozen=True)
class DemoConfig:
    """Configuration of a run; the defaults made the committed model."""

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

    def scaled(self, factor: float) -> Self:
        """Return the configuration with the numbers of steps and clips scaled."""
        return replace(
            self,
            stage_one=self.stage_one.scaled(factor),
            stage_two=self.stage_two.scaled(factor),
            stage_two_clips=max(len(LABELS), round(factor * self.stage_two_clips)),
        )

    @property
    def dimensions(self) -> ModelDimensions:
        """Dimensions of stage I: no adapter, positions for ``SHORT_FRAMES`` frames."""
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


class ShortClipLoss(nn.Module):
    """Loss of stage I: the motion, and the state of every tubelet that ``read_out`` gives for its feature."""

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


class WindowLoss(nn.Module):
    """Loss of stage II: adapter and temporal half on stored features."""

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
    """Initialise distinct positions, and let half of the patch filters respond to change only."""
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
    """Return sines and cosines of ``width / 2`` wavelengths, from 2 ``count`` down to 4: [count, width]."""
    cycles = torch.logspace(0, np.log2(max(1, count / 2)), width // 2, base=2) / 2
    angles = 2 * torch.pi * cycles * torch.arange(count)[:, None] / count
    return torch.cat([angles.sin(), angles.cos()], dim=1) / 2


def fastest_dtype(run: Callable[[], Tensor]) -> torch.dtype:
    """Return float32 or bfloat16: the type in which ``run`` and its gradients take less time on this machine.

    bfloat16 is three times as fast as float32 on CPUs that multiply it, and ten times slower on those that
    emulate it, so it is measured.
    """

    def seconds(dtype: torch.dtype) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = run()
        loss.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    return min((torch.float32, torch.bfloat16), key=lambda dtype: min(seconds(dtype) for _ in range(2)))


def train_stage_one(config: DemoConfig, progress: StepProgress) -> SfaVivit:
    """Train the whole model on ``SHORT_FRAMES`` frames."""
    torch.manual_seed(config.seed)
    model = SfaVivit(config.dimensions)
    initialise_for_motion(model)
    probe = torch.zeros(4, SHORT_FRAMES, *(SAMPLING.crop_size,) * 2, 3, dtype=torch.uint8)
    dtype = fastest_dtype(lambda: model(probe)[""].float().square().mean())
    model.zero_grad()
    stage = config.stage_one
    batches = DataLoader(
        ShortClipBatches(config.seed, stage.steps, stage.batch_size),
        batch_size=None,
        num_workers=config.workers,
    )
    trainer = stage.trainer(ShortClipLoss(model, config.state_weight, dtype), config.seed)
    trainer.train(([batch] for batch in batches), progress)
    return model.eval()


@torch.no_grad()
def long_clip_features(model: SfaVivit, config: DemoConfig, progress: StepProgress) -> tuple[Tensor, Tensor]:
    """Return features float32 [N, 64, D] and labels int64 [N] of the clips of stage II."""
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
) -> SfaVivit:
    """Train adapter and temporal half on features of long clips."""
    torch.manual_seed(config.seed)
    extended = stage_two_model(model, LONG_FRAMES, AdapterDimensions(width=model.dims.hidden_size))
    rng = torch.Generator().manual_seed(config.seed)
    size = config.stage_two.batch_size

    def batches() -> Iterator[list[Windows]]:
        while True:
            yield [draw_windows(features, labels, size, config.mixed_share, rng)]

    trainer = config.stage_two.trainer(WindowLoss(extended), config.seed)
    trainer.train(batches(), progress)
    return extended.eval()


def stage_two_model(model: SfaVivit, frames: int, adapter: AdapterDimensions) -> SfaVivit:
    """Return the stage I model with positions for ``frames`` frames, frozen, its adapter the identity.

    Raises:
        ValueError: ``frames`` is no multiple of the tubelet length.
    """
    extended = SfaVivit(replace(model.dims.with_frames(frames), adapter=adapter))
    extended.spatial.load_state_dict(model.spatial.state_dict())
    copy_temporal(model.temporal, extended.temporal)
    return extended.freeze_spatial()
