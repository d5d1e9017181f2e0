"""Order of the examples in each epoch, the same for any number of processes, and batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from sfavivit.errors import UsageError


class Place(NamedTuple):
    """An example in an epoch: all that its random numbers depend on."""

    epoch: int
    example: int


PADDING = Place(-1, -1)  # fills up the last batch of a validation


@dataclass(frozen=True)
class Share:
    """This process's share of every batch, and the micro-batches that it is computed in.

        batch         0 1 2 3 4 5 6 7
        process       0 0 0 0 1 1 1 1      two processes: a run of each batch
        micro-batch   0 0 1 1 0 0 1 1      that accumulate gradients over two

    ``batch_size`` is that of all processes together. Neighbours stay together, since mixup mixes them.

    Raises:
        UsageError: the batch cannot be divided evenly.
    """

    batch_size: int
    processes: int = 1
    process: int = 0
    micro_batches: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.processes * self.micro_batches):
            raise UsageError(
                f"batch size {self.batch_size} cannot be shared by {self.processes} processes that "
                f"accumulate {self.micro_batches} parts each; change one of them"
            )

    @property
    def micro_batch_size(self) -> int:
        return self.batch_size // (self.processes * self.micro_batches)


def training_micro_batches(
    examples: int, share: Share, *, seed: int, epoch: int, first_step: int = 0
) -> Iterator[list[Place]]:
    """Yield this process's micro-batches from ``first_step`` of an epoch on, in an order drawn from the seed.

    The order is a function of (seed, epoch). A last batch that is not full is left out.
    """
    size = share.micro_batch_size
    order = np.random.default_rng((seed, 0, epoch)).permutation(examples)
    for step in range(first_step, examples // share.batch_size):
        for number in range(share.micro_batches):
            start = step * share.batch_size + (share.process * share.micro_batches + number) * size
            yield [Place(epoch, int(example)) for example in order[start : start + size]]


def validation_micro_batches(examples: int, share: Share) -> Iterator[list[Place]]:
    """Yield every example once over all processes, which get as many micro-batches each, the last padded."""
    size = share.micro_batch_size
    mine = range(share.process, examples, share.processes)
    padded = -(-examples // (share.processes * size)) * size
    places = [Place(0, example) for example in mine] + [PADDING] * (padded - len(mine))
    for start in range(0, padded, size):
        yield places[start : start + size]


class TensorBatch:
    """Base of batches: all tensors, and those in dictionaries, move to a device together.

    Deliberately no tuple or dataclass: mixed precision would round the tensors of a container.
    """

    def to(self, device: torch.device) -> Self:
        """Move the tensors to ``device``, in place, and return the batch."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device, non_blocking=True))
            elif isinstance(value, dict):
                setattr(self, name, {key: tensor.to(device) for key, tensor in value.items()})
        return self
