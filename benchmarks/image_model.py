"""A small image ViT in place of one trained on ImageNet: the start of the spatial half, as in the paper.

It learns from still pictures to tell many random signs apart. They are shown as in the videos of
``long_order``, but none of those three is among them, and a picture has no order. Its dimensions are those of
the videos' spatial half, and its weights are written as timm names them, for ``--image-checkpoint``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.long_order import SIGNS as VIDEO_SIGNS
from benchmarks.long_order import SIZE, Clips, Scene, dots_of
from benchmarks.long_order_training import MODEL, batch_of, in_order
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.utils.atomic import atomic_write
from training.batches import Share, training_parts
from training.clips import ClipBatch
from training.config import OptimiserConfig
from training.hardware import make_fabric
from training.loss import batch_result
from training.optimiser import epoch_schedule
from training.trainer import StepResult, Trainer

SIGNS = 32
LEAST_DIFFERENCE = 4  # dots of 16, between any two signs and to those of the videos
HELD_OUT = 1024
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 0.001, 0.05
FIRST_PICTURE = slice(0, 1)


class ImageModel(nn.Module):
    """The spatial half for single pictures, with a linear classifier on its class token."""

    def __init__(self) -> None:
        super().__init__()
        dims = MODEL.model_copy(update={"tubelet_frames": 1}).dimensions(SIZE, frames=1)
        self.spatial = SpatialTransformer(dims)
        self.head = nn.Linear(dims.hidden_size, SIGNS)

    def forward(self, batch: ClipBatch) -> StepResult:
        """A learner of ``training.trainer``, on clips of one frame."""
        logits = self.head(self.spatial(batch.frames)[:, 0])
        return batch_result({"": logits}, batch.labels, batch.valid, None, smoothing=0.0)


def random_signs() -> list[NDArray[np.int64]]:
    """32 signs [4, 4] of 0 and 1, always the same."""
    rng = np.random.default_rng(0)
    signs: list[NDArray[np.int64]] = []
    taken = [dots_of(sign) for sign in VIDEO_SIGNS]
    while len(signs) < SIGNS:
        sign = rng.integers(0, 2, (4, 4))
        if all((sign != other).sum() >= LEAST_DIFFERENCE for other in (*taken, *signs)):
            signs.append(sign)
    return signs


def draw_pictures(count: int, rng: np.random.Generator) -> Clips:
    """Pictures of the signs in turn, as clips of one frame."""
    signs = random_signs()
    labels = np.arange(count) % SIGNS
    return Clips(np.stack([_picture(signs[label], rng) for label in labels]), labels)


def picture_sets(seed: int, count: int) -> tuple[Clips, Clips]:
    """``count`` to learn from, and others to judge by, whatever ``count`` is."""
    training = draw_pictures(count, np.random.default_rng((seed, count)))
    return training, draw_pictures(HELD_OUT, np.random.default_rng((seed, HELD_OUT, 1)))


def _picture(sign: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    scene = Scene(1, rng)
    scene.show(sign, np.array([True]))
    return scene.frames()


def train_image_model(seed: int, pictures: int, epochs: int) -> tuple[ImageModel, float]:
    """A model with the weights and pictures of ``seed``, and its top-1 on pictures that it has not seen."""
    training, held_out = picture_sets(seed, pictures)
    config = OptimiserConfig(
        name="adamw",
        learning_rate=LEARNING_RATE,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        weight_decay=WEIGHT_DECAY,
    )
    torch.manual_seed(seed)
    model = ImageModel()
    schedule = epoch_schedule(config, pictures // BATCH_SIZE)
    trainer = Trainer(make_fabric(), model, config, schedule, seed=seed)
    for epoch in range(epochs):
        parts = training_parts(pictures, Share(BATCH_SIZE), seed=seed, epoch=epoch)
        batches = (batch_of(training, (place.example for place in part), FIRST_PICTURE) for part in parts)
        for _ in trainer.steps([batch] for batch in batches):
            pass
    _, top1 = trainer.evaluate(in_order(held_out, BATCH_SIZE, FIRST_PICTURE))
    return model, top1


def write_image_checkpoint(model: ImageModel, path: Path) -> None:
    """As ``.safetensors``, in timm's naming."""
    spatial = model.spatial
    encoder, dims = spatial.encoder, spatial.dims
    kernel = spatial.patch_embed.weight.view(dims.hidden_size, dims.patch_size, dims.patch_size, 3)
    weights: dict[str, Tensor] = {
        "cls_token": encoder.cls,
        "pos_embed": encoder.pos,
        "patch_embed.proj.weight": kernel.permute(0, 3, 1, 2),
        "patch_embed.proj.bias": spatial.patch_embed.bias,
        **{f"blocks.{name}": tensor for name, tensor in encoder.blocks.named_parameters()},
        **{f"norm.{name}": tensor for name, tensor in encoder.norm.named_parameters()},
        **{f"head.{name}": tensor for name, tensor in model.head.named_parameters()},
    }
    atomic_write(path, save({name: tensor.detach().contiguous() for name, tensor in weights.items()}))
