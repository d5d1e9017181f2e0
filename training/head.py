"""Stage II on stored features: adapter, temporal half and classifiers of a new head.

There is no spatial half in here: not its weights, not its frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sfavivit.config import AdapterDimensions, ModelDimensions
from sfavivit.errors import RepositoryError, UsageError
from sfavivit.models.vivit import TemporalTransformer
from sfavivit.repository.manifest import Repository
from training.config import OptimiserConfig
from training.hardware import make_fabric
from training.head_config import HeadRecipe
from training.head_windows import FeatureExample, WindowBatch, Windows
from training.learner import batch_result, mix
from training.optimiser import epoch_schedule
from training.selection import SELECTORS, selected_logits
from training.stages import copy_temporal
from training.stored_features import FeatureCache
from training.trainer import StepResult, Trainer
from training.watch import RunningMean, StepProgress

ONE_THREAD_WIDTH = 128


class HeadLearner(nn.Module):
    """A temporal half and its loss on windows of features."""

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


def head_of(repository: Repository, name: str) -> TemporalTransformer:
    """The temporal half of a head, as the repository serves it.

    Raises:
        HeadNotFoundError: no such head.
        RepositoryError: its weights are not those of its dimensions.
    """
    temporal = TemporalTransformer(repository.manifest.head(name).dimensions)
    file = repository.temporal_file(name, "model.safetensors")
    try:
        temporal.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RepositoryError(
            f"{file} does not hold this head's weights: {' '.join(str(error).split()):.200}; export it again"
        ) from None
    return temporal


def new_head(
    dims: ModelDimensions, outputs: Mapping[str, int], recipe: HeadRecipe, start: TemporalTransformer | None
) -> TemporalTransformer:
    """A head of ``outputs`` {name: classes} with an adapter: from ``start``, or all of it at random.

    ``dims``: what it is like where the recipe does not say.

    Raises:
        UsageError: frames that are no whole number of tubelets, or an adapter of another width than
            ``start``.
    """
    width = recipe.adapter_width or (dims.adapter.width if dims.adapter else dims.hidden_size)
    adapter = replace(dims.adapter, width=width) if dims.adapter else AdapterDimensions(width=width)
    try:
        dims = dims.with_frames(recipe.frames or dims.max_frames)
    except ValueError as error:
        raise UsageError(f"frames = {recipe.frames}: {error}") from None
    if start is not None and start.dims.adapter not in (None, adapter):
        raise UsageError(
            f"adapter_width = {width} is not that of the head to start from, {start.dims.adapter.width}; "
            "leave it out, or start --from-scratch"
        )
    torch.manual_seed(recipe.seed)
    head = TemporalTransformer(replace(dims, adapter=adapter, outputs=tuple(outputs.items())))
    if start is not None:
        copy_temporal(start, head)
        for classifier in head.classifiers.values():
            assert isinstance(classifier, nn.Linear)
            classifier.reset_parameters()  # its classes are others, even where they are as many
    return head


class Trained(NamedTuple):
    """Means over about the last 50 steps, on the windows that were learned from."""

    steps: int
    loss: float
    accuracy: float


def train_head(
    head: TemporalTransformer,
    examples: Sequence[FeatureExample],
    cache: FeatureCache,
    recipe: HeadRecipe,
    *,
    accelerator: str = "cpu",
    progress: StepProgress,
) -> Trained:
    """Train all of ``head``, in place; on the CPU the same seed gives the same weights.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    config = head_optimiser(recipe, len(examples))
    schedule = epoch_schedule(config, len(examples) // config.batch_size)
    fabric = make_fabric(accelerator)
    trainer = Trainer(fabric, HeadLearner(head, recipe), config, schedule, seed=recipe.seed)
    windows = Windows(examples, cache, head.dims.max_tubelets, recipe)
    loss, accuracy = RunningMean(), RunningMean()
    with few_threads(head):
        for figures in trainer.steps(windows.batches(config.batch_size, config.epochs)):
            progress(figures.step + 1, loss.add(figures.loss), accuracy.add(figures.accuracy))
    head.cpu().eval()
    return Trained(trainer.step, loss.value, accuracy.value)


@contextmanager
def few_threads(head: TemporalTransformer) -> Iterator[None]:
    """One thread for a head that is small: on busy cores, threads wait for each other longer than they work.

    With two threads on two busy cores a step of the demo's head took 0.6 s, with one 0.05 s.
    """
    before = torch.get_num_threads()
    if head.dims.hidden_size <= ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def head_optimiser(recipe: HeadRecipe, examples: int) -> OptimiserConfig:
    """The recipe's, with batches that the list can fill; of an even size, for mixup mixes pairs."""
    size = min(recipe.optimiser.batch_size, examples)
    if recipe.regularisation.mixup and size > 1:
        size -= size % 2
    return recipe.optimiser.model_copy(update={"batch_size": size})


def training_steps(recipe: HeadRecipe, examples: int) -> int:
    """How many steps ``train_head`` takes."""
    config = head_optimiser(recipe, examples)
    return config.epochs * (examples // config.batch_size)
