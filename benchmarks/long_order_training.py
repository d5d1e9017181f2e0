"""The paper's ways to train one model, and what a stage of any of them gives and costs.

    8 frames, full                 8 frames ─────────────────────────────────────────  the paper's model A
    128 frames, full               128 frames                                                            E
    frozen, not initialised        128 frames, spatial half frozen as the image checkpoint has it
    frozen, adapter, new temporal  8 frames ─► spatial │ 128 frames, temporal drawn anew
    SFA B, C                       8 frames (a third of the epochs; all) ─► 128 frames
    SFA D                          8 frames (a third) ─► 32 frames (as many) ─► 128 frames

All start from an image checkpoint (``image_model``) but a last one, SFA C from random weights.

The trainer, the learner and the stages are those of ``training``; only the frames come out of memory, since a
small model would wait for the decoder otherwise. The 8 and 32 frames follow one another, at a random place of
the video, as ``python -m training`` takes them: their tubelets are those of 128 frames. Top-1 is of the
middle frames of held-out videos.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.long_order import FRAMES, ORDERS, SAMPLING, Clips
from benchmarks.training_scale import Scale
from sfavivit.models.vivit import SfaVivit
from training.batches import Place, Share, training_parts
from training.clips import Clip, ClipBatch
from training.config import AugmentationConfig, ModelConfig, OptimiserConfig, Recipe, StageConfig
from training.hardware import make_fabric
from training.history import EpochRow
from training.loss import ClipLoss
from training.memory import peak_memory_bytes, reset_peaks
from training.optimiser import epoch_schedule
from training.stages import stage_model
from training.trainer import Trainer

Chain = tuple[StageConfig, ...]

FULL, LONG_FULL = "8 frames, full", "128 frames, full (E)"
NOT_INITIALISED, NEW_TEMPORAL = "128 frames, frozen, not initialised", "frozen, adapter, new temporal half"
SFA = ("SFA B", "SFA C", "SFA D")
WITHOUT_IMAGES = "SFA C, without an image checkpoint"

SHORT_FRAMES, MIDDLE_FRAMES = 8, 32
BATCH_SIZE = 8
MODEL = ModelConfig(
    size="tiny", hidden_size=64, patch_size=16, spatial_layers=2, temporal_layers=2, outputs={"": len(ORDERS)}
)


def variants(scale: Scale) -> dict[str, Chain]:
    """The rows of the table: {name: stages}."""
    epochs, third = scale.epochs, max(1, scale.short_epochs // 3)
    short = _first("short", SHORT_FRAMES, scale.short_epochs, scale.short_rate)
    brief = short.model_copy(update={"name": "brief", "epochs": third})
    random = short.model_copy(update={"name": "random", "spatial": "random"})
    full = _first("full", FRAMES, epochs, scale.full_rate)
    frozen = _first("frozen", FRAMES, epochs, scale.frozen_rate, frozen=True)
    long = StageConfig(
        name="long", frames=FRAMES, frozen=True, adapter=True, epochs=epochs, learning_rate=scale.frozen_rate
    )
    middle = long.model_copy(update={"name": "middle", "frames": MIDDLE_FRAMES, "epochs": third})
    anew = long.model_copy(update={"name": "anew", "temporal": "random"})
    return {
        FULL: (short,),
        LONG_FULL: (full,),
        NOT_INITIALISED: (frozen,),
        NEW_TEMPORAL: (short, anew),
        "SFA B": (brief, long),
        "SFA C": (short, long),
        "SFA D": (brief, middle, long),
        WITHOUT_IMAGES: (random, long),
    }


def _first(name: str, frames: int, epochs: int, rate: float, *, frozen: bool = False) -> StageConfig:
    return StageConfig(
        name=name,
        frames=frames,
        spatial="image",
        temporal="random",
        frozen=frozen,
        epochs=epochs,
        learning_rate=rate,
    )


def kind(stage: StageConfig) -> str:
    """What an epoch of the stage costs depends on this alone."""
    return f"{stage.frames} frames" + ", frozen" * stage.frozen + ", adapter" * stage.adapter


def recipe_of(scale: Scale, seed: int) -> Recipe:
    """AdamW, which small models need; without augmentation. ``seed``: of weights, order and clips."""
    return Recipe(
        name="long-order",
        seed=seed,
        model=MODEL,
        sampling=SAMPLING,
        optimiser=OptimiserConfig(
            name="adamw",
            learning_rate=scale.full_rate,
            epochs=scale.epochs,
            batch_size=BATCH_SIZE,
            weight_decay=0.05,
        ),
        augmentation=AugmentationConfig(random_crop=0, flip=0, scale_jitter=0),
        stages=variants(scale)[FULL],
    )


class StageTraining:
    """One stage of a chain on clips in memory: ``training.stage_run`` without its decoder and its files.

    ``image_checkpoint``: for a stage whose spatial half starts from one.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: StageConfig,
        previous: SfaVivit | None,
        clips: Clips,
        image_checkpoint: Path | None = None,
    ) -> None:
        self._recipe, self._stage, self._clips = recipe, stage, clips
        self.model = stage_model(recipe, stage, previous, image_checkpoint).train()
        config = recipe.optimiser_of(stage)
        self.epochs = config.epochs
        schedule = epoch_schedule(config, len(clips.labels) // config.batch_size)
        self._trainer = Trainer(
            make_fabric(), ClipLoss(self.model, recipe.regularisation), config, schedule, seed=recipe.seed
        )

    def epoch(self, number: int, held_out: Clips) -> EpochRow:
        """Train epoch ``number``, from 0, and measure it.

        Memory: the most resident memory while training, less what was resident before.
        """
        reset_peaks()
        before = peak_memory_bytes()
        start = time.perf_counter()
        steps = list(self._trainer.steps([batch] for batch in self.batches(number)))
        seconds = time.perf_counter() - start
        memory = peak_memory_bytes() - before
        loss, top1 = self._trainer.evaluate(
            in_order(held_out, 4 * self._recipe.optimiser.batch_size, _part(self._stage.frames, at=0.5))
        )
        return EpochRow(
            epoch=number + 1,
            steps=self._trainer.step,
            learning_rate=steps[-1].learning_rate,
            loss=float(np.mean([step.loss for step in steps])),
            accuracy=float(np.mean([step.accuracy for step in steps])),
            validation_loss=loss,
            top1=top1,
            seconds=seconds,
            peak_memory_bytes=memory,
            peak_cuda_bytes=0,
            broken_videos=0,
        )

    def batches(self, epoch: int) -> Iterator[ClipBatch]:
        """The batches of an epoch: frames as ``training.clips.TrainingClips`` takes them from the files."""
        recipe = self._recipe
        share = Share(recipe.optimiser.batch_size)
        for places in training_parts(len(self._clips.labels), share, seed=recipe.seed, epoch=epoch):
            yield ClipBatch([_clip(self._clips, place.example, self._frames(place)) for place in places])

    def _frames(self, place: Place) -> slice:
        rng = np.random.default_rng((self._recipe.seed, 1, place.epoch, place.example))
        rng.random()  # there, whether to crop at random
        return _part(self._stage.frames, at=rng.random())


def _part(frames: int, *, at: float) -> slice:
    start = round(at * (FRAMES - frames))
    return slice(start, start + frames)


def in_order(clips: Clips, size: int, frames: slice) -> Iterator[ClipBatch]:
    """All examples, in batches of ``size``."""
    for start in range(0, len(clips.labels), size):
        yield batch_of(clips, range(start, min(start + size, len(clips.labels))), frames)


def batch_of(clips: Clips, examples: Iterable[int], frames: slice) -> ClipBatch:
    """Some frames of each example, as the trainer takes them."""
    return ClipBatch([_clip(clips, example, frames) for example in examples])


def _clip(clips: Clips, example: int, frames: slice) -> Clip:
    pixels: Any = torch.from_numpy(np.array(clips.frames[example, frames]))
    return Clip(pixels, {"": int(clips.labels[example])}, 1.0, valid=True, broken=())
