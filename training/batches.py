"""Which examples a process sees, in which order: the same for any number of processes and workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sfavivit.errors import UsageError


class Place(NamedTuple):
    """An example in an epoch: all that its random numbers depend on."""

    epoch: int
    example: int


NOTHING = Place(-1, -1)  # fills up the last batch of an evaluation


@dataclass(frozen=True)
class Share:
    """This process's part of every batch, and the parts that it is computed in.

        batch     0 1 2 3 4 5 6 7
        process   0 0 0 0 1 1 1 1      two processes: a run of each batch
        part      0 0 1 1 0 0 1 1      that accumulate over two parts

    ``batch_size`` is that of all processes together. Neighbours stay together, since mixup mixes them.
    """

    batch_size: int
    processes: int = 1
    process: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.processes * self.parts):
            raise UsageError(
                f"batch size {self.batch_size} cannot be shared by {self.processes} processes that "
                f"accumulate {self.parts} parts each; change one of them"
            )

    @property
    def part_size(self) -> int:
        return self.batch_size // (self.processes * self.parts)


def training_parts(
    examples: int, share: Share, *, seed: int, epoch: int, first_step: int = 0
) -> Iterator[list[Place]]:
    """The parts of this process from ``first_step`` of an epoch on; a batch that is not full is left out.

    The order is a function of (seed, epoch).
    """
    order = np.random.default_rng((seed, 0, epoch)).permutation(examples)
    for step in range(first_step, examples // share.batch_size):
        for part in range(share.parts):
            start = step * share.batch_size + (share.process * share.parts + part) * share.part_size
            yield [Place(epoch, int(example)) for example in order[start : start + share.part_size]]


def validation_parts(examples: int, share: Share) -> Iterator[list[Place]]:
    """Every example once, over all processes; every process gets as many parts, the last filled up."""
    mine = range(share.process, examples, share.processes)
    padded = -(-examples // (share.processes * share.part_size)) * share.part_size
    places = [Place(0, example) for example in mine] + [NOTHING] * (padded - len(mine))
    for start in range(0, padded, share.part_size):
        yield places[start : start + share.part_size]
