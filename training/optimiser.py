"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from training.config import OptimiserConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up times cosine decay to zero, as the compound schedule of ViViT in Scenic."""

    steps: int
    warmup_steps: float

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate in step 0, 1 ... ``steps`` - 1."""
        warmup = min(1.0, (step + 1) / max(1.0, self.warmup_steps))
        return warmup * (1 + math.cos(math.pi * step / self.steps)) / 2


def epoch_schedule(config: OptimiserConfig, steps_per_epoch: int) -> Schedule:
    """Return the schedule of a run of whole epochs."""
    return Schedule(config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch)


def build_optimiser(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> Optimizer:
    """Return an optimiser over the parameters that require gradients; frozen ones have no state in it."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(learned, lr=rate, momentum=config.momentum, weight_decay=decay)
    return torch.optim.AdamW(learned, lr=rate, weight_decay=decay)
