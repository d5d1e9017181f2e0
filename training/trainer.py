"""The one training loop: it takes steps, on any devices, and knows nothing about what is learned.

    learner(batch) -> StepResult         a module, which holds whatever learns and computes its own loss
    Trainer.steps(batches)               forward, backward, clip, step; one StepFigures after each
    Trainer.save / load                  everything, atomically

Devices, DDP and FSDP, mixed precision and gradient accumulation are Lightning Fabric's. A step is a function
of the weights, the optimiser's state, its batch and its number: the random numbers of a step are seeded with
(seed, step, process), so there is no state of a generator to keep, and a run that was killed goes on as if
it had not been.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sfavivit.errors import TrainingError
from sfavivit.utils.atomic import fsync_path
from training.config import OptimiserConfig
from training.optimiser import Schedule, build_optimiser


class StepResult(NamedTuple):
    """What a learner says of a batch: mean loss, and how many of how many examples were right (scalars).

    ``correct`` may be a vector: first the examples that were right in everything, then those that were right
    in each thing that was asked.
    """

    loss: Tensor
    correct: Tensor
    examples: Tensor


class StepFigures(NamedTuple):
    """A step over all processes; ``step`` counts from 0."""

    step: int
    learning_rate: float
    loss: float
    accuracy: float


class Measured(NamedTuple):
    """An evaluation: ``accuracy`` in everything, and in each thing that the learner counted apart."""

    loss: float
    accuracy: float
    parts: tuple[float, ...]


class Trainer:
    """Learner, optimiser and the number of steps taken.

    Raises:
        TrainingError: (from ``steps``) the loss or its gradient is no longer a number.
    """

    def __init__(
        self, fabric: Fabric, learner: nn.Module, config: OptimiserConfig, schedule: Schedule, *, seed: int
    ) -> None:
        self.fabric, self.config, self.schedule, self.seed = fabric, config, schedule, seed
        self.learner = fabric.setup_module(learner)
        optimiser = fabric.setup_optimizers(build_optimiser(self.learner.parameters(), config))
        assert not isinstance(optimiser, tuple)
        self.optimiser = optimiser
        self.step = 0

    def steps(self, batches: Iterable[Sequence[Any]]) -> Iterator[StepFigures]:
        """Take a step for each item: the parts of this process's batch, whose gradients are accumulated."""
        self.learner.train()
        for parts in batches:
            if self.step >= self.schedule.steps:
                return
            yield self._take_step(parts)

    def _take_step(self, parts: Sequence[Any]) -> StepFigures:
        torch.manual_seed(self._step_seed())
        rate = self.config.learning_rate * self.schedule.factor(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        results = [self._backward(part, len(parts), last=k == len(parts) - 1) for k, part in enumerate(parts)]
        norm = self._clip_gradients()
        loss, correct, *_, examples = self._sums(results)
        loss /= len(parts) * self.fabric.world_size
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"the loss is {loss} and its gradient {norm} long in step {self.step} (learning rate "
                f"{rate:.3g}); lower the learning rate, or warm up for longer"
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        figures = StepFigures(self.step, rate, loss, correct / examples)
        self.step += 1
        return figures

    def _clip_gradients(self) -> float:
        """The norm of all gradients before they were clipped; 0 where they are not."""
        if not self.config.clip_norm:
            return 0.0
        norm = self.fabric.clip_gradients(
            self.learner, self.optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        return norm.item()

    def _backward(self, part: Any, parts: int, *, last: bool) -> StepResult:
        """Gradients are exchanged between processes with the last part only."""
        with self.fabric.no_backward_sync(self.learner, enabled=not last):
            result: StepResult = self.learner(self.fabric.to_device(part))
            self.fabric.backward(result.loss / parts)
        return StepResult(*(value.detach() for value in result))

    def evaluate(self, batches: Iterable[Any]) -> tuple[float, float]:
        """Loss and accuracy of ``measure``."""
        measured = self.measure(batches)
        return measured.loss, measured.accuracy

    @torch.no_grad()
    def measure(self, batches: Iterable[Any]) -> Measured:
        """Means over the examples of all processes, each of which gives as many batches.

        Raises:
            TrainingError: there are no examples.
        """
        self.learner.eval()
        results: Iterator[StepResult] = (self.learner(self.fabric.to_device(batch)) for batch in batches)
        weighted = [result._replace(loss=result.loss * result.examples) for result in results]
        loss, *correct, examples = self._sums(weighted)
        if not examples:
            raise TrainingError("there is nothing to measure on: no validation video can be read")
        accuracy, *parts = (count / examples for count in correct)
        return Measured(loss / examples, accuracy, tuple(parts))

    def _sums(self, results: Sequence[StepResult]) -> list[float]:
        """Sums of loss, correct (all of its numbers) and examples over the results of all processes."""
        rows = [torch.cat([value.float().flatten() for value in result]) for result in results]
        sums = torch.stack(rows).sum(0)
        reduced = self.fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return [float(value) for value in reduced]

    def _step_seed(self) -> int:
        entropy = (self.seed, self.step, self.fabric.global_rank)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Write weights, optimiser, steps taken and ``extra`` (plain values): all of it, or nothing.

        Raises:
            TrainingError: the file cannot be written.
        """
        part = path.with_name(f".{path.name}.part")
        state: dict[str, Any] = {"learner": self.learner, "optimiser": self.optimiser, "step": self.step}
        try:
            self.fabric.save(part, state | {"extra": extra})
            if self.fabric.is_global_zero:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path)
                fsync_path(path.parent)
        except (OSError, RuntimeError) as error:  # torch has an error of its own for a full disk
            raise TrainingError(f"{path} cannot be written: {_first_line(error)}") from error
        self.fabric.barrier()

    def load(self, path: Path) -> None:
        """Go on from ``save``.

        Raises:
            TrainingError: the file is not the state of a run of this model.
        """
        state: dict[str, Any] = {"learner": self.learner, "optimiser": self.optimiser}
        with _readable(path):
            self.step = self.fabric.load(path, state, weights_only=True)["step"]


def saved_extra(path: Path) -> dict[str, Any]:
    """What ``Trainer.save`` was given beside the trainer, without reading the weights.

    Raises:
        TrainingError: the file is not such a state.
    """
    with _readable(path):
        extra: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["extra"]
        return extra


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch raises whatever it likes on a broken file
        raise TrainingError(
            f"{path} cannot be resumed from: {_first_line(error)}; remove it to start again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
