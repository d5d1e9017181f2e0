"""Stage II on stored features: adapter, temporal half and classifiers learn, without the spatial half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from sfavivit.engines.device import Device
from sfavivit.models.vivit import TemporalTransformer
from training.config import OptimiserConfig
from training.hardware import make_fabric
from training.head.config import HeadRecipe
from training.head.features import FeatureCache
from training.head.selection import SELECTORS, selected_logits
from training.head.windows import FeatureExample, WindowBatch, Windows
from training.loss import batch_result, mix
from training.optimiser import epoch_schedule
from training.trainer import StepProgress, StepResult, Trained, Trainer

MAX_ONE_THREAD_WIDTH = 128


class HeadLoss(nn.Module):
    """Temporal half and its loss on windows of features."""

    def __init__(self, temporal: TemporalTransformer, recipe: HeadRecipe) -> None:
        super().__init__()
        self.temporal, self.recipe = temporal, recipe

    def forward(self, batch: WindowBatch) -> StepResult:
        features, shares = batch.features, None
        if self.recipe.regularisation.mixup:
            shares = batch.shares
            features = mix(features, shares)
        if self.recipe.select:
            chosen = SELECTORS[self.recipe.selector](features, self.recipe.select)
            outputs = selected_logits(self.temporal, features, chosen)
        else:
            outputs = self.temporal(features)
        valid = torch.ones(len(features), dtype=torch.bool, device=features.device)
        smoothing = self.recipe.regularisation.label_smoothing
        return batch_result(outputs, batch.labels, valid, shares, smoothing)


def train_head(
    head: TemporalTransformer,
    examples: Sequence[FeatureExample],
    cache: FeatureCache,
    recipe: HeadRecipe,
    *,
    device: Device = "cpu",
    progress: StepProgress,
) -> Trained:
    """Train all of ``head``, in place; on the CPU the same seed gives the same weights.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    config = head_optimiser(recipe, len(examples))
    schedule = epoch_schedule(config, len(examples) // config.batch_size)
    trainer = Trainer(make_fabric(device), HeadLoss(head, recipe), config, schedule, seed=recipe.seed)
    windows = Windows(examples, cache, head.dims.max_tubelets, recipe)
    with few_threads(head):
        trained = trainer.train(windows.batches(config.batch_size, config.epochs), progress)
    head.cpu().eval()
    return trained


@contextmanager
def few_threads(head: TemporalTransformer) -> Iterator[None]:
    """Use one thread for a small head: on busy cores, threads would mostly wait for each other."""
    before = torch.get_num_threads()
    if head.dims.hidden_size <= MAX_ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def head_optimiser(recipe: HeadRecipe, examples: int) -> OptimiserConfig:
    """Return the recipe's optimiser with a batch size that the list fills, even where mixup needs pairs."""
    size = min(recipe.optimiser.batch_size, examples)
    if recipe.regularisation.mixup and size > 1:
        size -= size % 2
    return recipe.optimiser.model_copy(update={"batch_size": size})


def training_steps(recipe: HeadRecipe, examples: int) -> int:
    """Return the number of steps that ``train_head`` takes."""
    config = head_optimiser(recipe, examples)
    return config.epochs * (examples // config.batch_size)
