"""Windows of stored features, drawn as serving shows them, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sfavivit.features.entry import FeatureKey
from sfavivit.inference.windows import PADDING
from sfavivit.types import Features
from training.batches import Place, Share, TensorBatch, training_micro_batches
from training.head.config import HeadRecipe
from training.head.features import FeatureCache


@dataclass(frozen=True)
class FeatureExample:
    """Keys of a video's features, plain and augmented, and the class index of every output."""

    keys: tuple[FeatureKey, ...]
    labels: Mapping[str, int]


class WindowBatch(TensorBatch):
    """Features float32 [B, T, D], labels {output: int64 [B]}, and own shares in a mixup float32 [B]."""

    def __init__(
        self, windows: Sequence[Features], labels: Sequence[Mapping[str, int]], shares: Sequence[float]
    ):
        self.features = torch.from_numpy(np.stack(windows))
        self.labels = {name: torch.tensor([each[name] for each in labels]) for name in labels[0]}
        self.shares = torch.tensor(shares, dtype=torch.float32)


def draw_window(features: Features, length: int, prefix: float, rng: np.random.Generator) -> Features:
    """Draw a window float32 [length, D] of a video's features [T, D].

    T >= length     any window of the video: serving slides over all of it
    T < length      the video, repeated: as serving shows short videos
    ``prefix``      probability that only a beginning of either is repeated: as a stream that is arriving
    """
    count = min(len(features), length)
    start = int(rng.integers(len(features) - count + 1))
    if rng.random() < prefix:
        count = int(rng.integers(1, count + 1))
    return PADDING["loop"](features[start : start + count], length)


class Windows:
    """One window per example and epoch; everything random depends on (seed, epoch, example) alone."""

    def __init__(
        self, examples: Sequence[FeatureExample], cache: FeatureCache, length: int, recipe: HeadRecipe
    ) -> None:
        self._examples, self._cache, self._length, self._recipe = examples, cache, length, recipe

    def batches(self, batch_size: int, epochs: int) -> Iterator[list[WindowBatch]]:
        """Yield the steps of all epochs, a batch in one piece each; a batch that is not full is left out."""
        for epoch in range(epochs):
            share, seed = Share(batch_size), self._recipe.seed
            for places in training_micro_batches(len(self._examples), share, seed=seed, epoch=epoch):
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
