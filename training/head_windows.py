"""Windows of stored features, as serving meets them, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sfavivit.features.entry import FeatureKey
from sfavivit.inference.windows import PADDING
from sfavivit.types import Features
from training.batches import Place, Share, training_parts
from training.head_config import HeadRecipe
from training.stored_features import FeatureCache


@dataclass(frozen=True)
class FeatureExample:
    """A video's features, as served and augmented, and for every output the number of its class."""

    keys: tuple[FeatureKey, ...]
    labels: Mapping[str, int]


class WindowBatch:
    """Features float32 [B, T, D], labels {output: int64 [B]}, shares float32 [B]: each window's own in a
    mixture.
    """

    def __init__(
        self, windows: Sequence[Features], labels: Sequence[Mapping[str, int]], shares: Sequence[float]
    ):
        self.features = torch.from_numpy(np.stack(windows))
        self.labels = {name: torch.tensor([each[name] for each in labels]) for name in labels[0]}
        self.shares = torch.tensor(shares, dtype=torch.float32)

    def to(self, device: torch.device) -> Self:
        """The same object, its tensors on ``device``."""
        self.features, self.shares = self.features.to(device), self.shares.to(device)
        self.labels = {output: labels.to(device) for output, labels in self.labels.items()}
        return self


def draw_window(features: Features, length: int, prefix: float, rng: np.random.Generator) -> Features:
    """A window float32 [length, D] of a video's features [T, D].

    T >= length     any window of the video: serving slides over all of it
    T < length      the video, over and over: as serving shows short videos
    ``prefix``      how often only a beginning of either, over and over: as a stream that is arriving
    """
    part = min(len(features), length)
    start = int(rng.integers(len(features) - part + 1))
    if rng.random() < prefix:
        part = int(rng.integers(1, part + 1))
    return PADDING["loop"](features[start : start + part], length)


class Windows:
    """Every epoch one window of each example; all that is random depends on (seed, epoch, example) alone."""

    def __init__(
        self, examples: Sequence[FeatureExample], cache: FeatureCache, length: int, recipe: HeadRecipe
    ) -> None:
        self._examples, self._cache, self._length, self._recipe = examples, cache, length, recipe

    def batches(self, batch_size: int, epochs: int) -> Iterator[list[WindowBatch]]:
        """The steps of all epochs, each a batch in one part; one that is not full is left out."""
        for epoch in range(epochs):
            parts = training_parts(
                len(self._examples), Share(batch_size), seed=self._recipe.seed, epoch=epoch
            )
            for places in parts:
                yield [self._batch(places)]

    def _batch(self, places: Sequence[Place]) -> WindowBatch:
        alpha = self._recipe.regularisation.mixup
        windows, shares = [], []
        for place in places:
            rng = np.random.default_rng((self._recipe.seed, 1, *place))
            keys = self._examples[place.example].keys
            features = self._cache.get(keys[rng.integers(len(keys))])
            windows.append(draw_window(features, self._length, self._recipe.prefix, rng))
            shares.append(rng.beta(alpha, alpha) if alpha else 1.0)
        return WindowBatch(windows, [self._examples[place.example].labels for place in places], shares)


def as_served(features: Features, length: int) -> Tensor:
    """The first window of a video, float32 [1, length, D], a short one repeated."""
    return torch.from_numpy(PADDING["loop"](features[:length], length)[None])
