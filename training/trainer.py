"""Training loop: takes steps on any devices, and is independent of model and data.

    module(batch) -> StepResult          a module that holds the weights and computes its own loss
    Trainer.steps(batches)               forward, backward, clip, step; StepMetrics after each
    Trainer.save / load                  the whole state, atomically

Devices, DDP and FSDP, mixed precision and gradient accumulation are Lightning Fabric's. A step is a function
of the weights, the optimiser's state, its batch and its number: its random numbers are seeded with (seed,
step, process). So no generator's state is saved, and a killed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sfavivit.errors import TrainingError
from sfavivit.utils.atomic import atomic_path
from training.config import OptimiserConfig
from training.optimiser import Schedule, build_optimiser


class StepResult(NamedTuple):
    """Result of a batch: mean loss, number of correct examples, number of examples (scalar tensors).

    ``correct`` may be a vector: examples that are right in all outputs, then in each.
    """

    loss: Tensor
    correct: Tensor
    examples: Tensor


class StepMetrics(NamedTuple):
    """Metrics of a step over all processes; ``step`` counts from 0."""

    step: int
    learning_rate: float
    loss: float
    accuracy: float


class Validation(NamedTuple):
    """Result of a validation; ``output_accuracies`` are empty where outputs are not counted apart."""

    loss: float
    accuracy: float
    output_accuracies: tuple[float, ...]


class Trained(NamedTuple):
    """Steps taken, with means of loss and accuracy over about the last 50."""

    steps: int
    loss: float
    accuracy: float


class StepProgress(Protocol):
    """Callback with the steps done and, in training, running means of loss and accuracy."""

    def __call__(self, done: int, loss: float | None = None, accuracy: float | None = None) -> None: ...


class RunningMean:
    """Mean of all values at first, of about the last 50 later."""

    KEPT = 0.98

    def __init__(self) -> None:
        self.value, self._count = 0.0, 0

    def add(self, value: float) -> float:
        """Add a value and return the mean."""
        kept = min(self.KEPT, self._count / (self._count + 1))
        self.value = kept * self.value + (1 - kept) * value
        self._count += 1
        return self.value


class Trainer:
    """Module, optimiser and the number of steps taken.

    Raises:
        TrainingError: (from ``steps``) the loss or its gradient is no longer a finite number.
    """

    def __init__(
        self, fabric: Fabric, module: nn.Module, config: OptimiserConfig, schedule: Schedule, *, seed: int
    ) -> None:
        self.fabric, self.config, self.schedule, self.seed = fabric, config, schedule, seed
        self.module = fabric.setup_module(module)
        optimiser = fabric.setup_optimizers(build_optimiser(self.module.parameters(), config))
        assert not isinstance(optimiser, tuple)
        self.optimiser = optimiser
        self.step = 0

    def train(self, batches: Iterable[Sequence[Any]], progress: StepProgress) -> Trained:
        """Take all steps and report each to ``progress``."""
        loss, accuracy = RunningMean(), RunningMean()
        for metrics in self.steps(batches):
            progress(metrics.step + 1, loss.add(metrics.loss), accuracy.add(metrics.accuracy))
        return Trained(self.step, loss.value, accuracy.value)

    def steps(self, batches: Iterable[Sequence[Any]]) -> Iterator[StepMetrics]:
        """Take a step per item, the micro-batches of this process, whose gradients are accumulated."""
        self.module.train()
        for micro_batches in batches:
            if self.step >= self.schedule.steps:
                return
            yield self._take_step(micro_batches)

    def _take_step(self, micro_batches: Sequence[Any]) -> StepMetrics:
        torch.manual_seed(self._step_seed())
        rate = self.config.learning_rate * self.schedule.factor(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        count = len(micro_batches)
        results = [self._backward(batch, count, last=k == count - 1) for k, batch in enumerate(micro_batches)]
        norm = self._clip_gradients()
        loss, correct, *_, examples = self._sums(results)
        loss /= count * self.fabric.world_size
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"the loss is {loss} and its gradient {norm} long in step {self.step} (learning rate "
                f"{rate:.3g}); lower the learning rate, or warm up for longer"
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        metrics = StepMetrics(self.step, rate, loss, correct / examples)
        self.step += 1
        return metrics

    def _clip_gradients(self) -> float:
        """Clip all gradients together; return their norm before that, or 0 where clipping is off."""
        if not self.config.clip_norm:
            return 0.0
        norm = self.fabric.clip_gradients(
            self.module, self.optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        return norm.item()

    def _backward(self, batch: Any, micro_batches: int, *, last: bool) -> StepResult:
        """Accumulate gradients; processes exchange them with the last micro-batch only."""
        with self.fabric.no_backward_sync(self.module, enabled=not last):
            result: StepResult = self.module(self.fabric.to_device(batch))
            self.fabric.backward(result.loss / micro_batches)
        return StepResult(*(value.detach() for value in result))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Any]) -> Validation:
        """Return means over the examples of all processes, each of which gives as many batches.

        Raises:
            TrainingError: there are no examples.
        """
        self.module.eval()
        results: Iterator[StepResult] = (self.module(self.fabric.to_device(batch)) for batch in batches)
        weighted = [result._replace(loss=result.loss * result.examples) for result in results]
        loss, *correct, examples = self._sums(weighted)
        if not examples:
            raise TrainingError("there is nothing to measure on: no validation video can be read")
        accuracy, *output_accuracies = (count / examples for count in correct)
        return Validation(loss / examples, accuracy, tuple(output_accuracies))

    def _sums(self, results: Sequence[StepResult]) -> list[float]:
        """Return sums of loss, all correct counts and examples over the results of all processes."""
        rows = [torch.cat([value.float().flatten() for value in result]) for result in results]
        reduced = self.fabric.all_reduce(torch.stack(rows).sum(0), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return [float(value) for value in reduced]

    def _step_seed(self) -> int:
        entropy = (self.seed, self.step, self.fabric.global_rank)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Write weights, optimiser, steps taken and ``extra`` (plain values), all or nothing.

        Raises:
            TrainingError: the file cannot be written.
        """
        state: dict[str, Any] = {"module": self.module, "optimiser": self.optimiser, "step": self.step}
        try:
            # All processes take part, the first one writes.
            with atomic_path(path) if self.fabric.is_global_zero else nullcontext(path) as part:
                self.fabric.save(part, state | {"extra": extra})
        except (OSError, RuntimeError) as error:  # torch has an error of its own for a full disk
            raise TrainingError(f"{path} cannot be written: {_first_line(error)}") from error
        self.fabric.barrier()

    def load(self, path: Path) -> None:
        """Restore the state that ``save`` wrote.

        Raises:
            TrainingError: the file is not the state of a run of this model.
        """
        state: dict[str, Any] = {"module": self.module, "optimiser": self.optimiser}
        with _readable(path):
            self.step = self.fabric.load(path, state, weights_only=True)["step"]


def saved_extra(path: Path) -> dict[str, Any]:
    """Read the ``extra`` of a state that ``Trainer.save`` wrote, without its weights.

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
    except Exception as error:  # torch raises many types on a broken file
        raise TrainingError(
            f"{path} cannot be resumed from: {_first_line(error)}; remove it to start again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
