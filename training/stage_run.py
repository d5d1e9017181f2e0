"""Run of a stage: epochs of clips, validation, history, and a state to resume from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from sfavivit.errors import TrainingError, UsageError
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.utils.atomic import TEMPORARY_NAME, atomic_write
from training.batches import Place, Share, training_micro_batches, validation_micro_batches
from training.classes import Example, Names, write_names
from training.clips import Clip, ClipBatch, TrainingClips, ValidationClips
from training.config import Recipe, StageConfig
from training.history import EpochRow, step_log, write_broken, write_curves, write_epochs
from training.loss import ClipLoss
from training.memory import peak_cuda_bytes, peak_memory_bytes, reset_peaks
from training.optimiser import epoch_schedule
from training.progress import say, work_bar
from training.trainer import RunningMean, StepMetrics, StepProgress, Trainer, saved_extra

MODEL, RECIPE, STATE = "model.safetensors", "recipe.json", "state.ckpt"
STEPS, METRICS, CURVES, BROKEN = "steps.csv", "metrics.csv", "curves.png", "broken_videos.csv"

Log = Callable[[StepMetrics], object]


@dataclass(frozen=True)
class Job:
    """Folder, examples and class names of a run, and how it is divided.

    ``micro_batches``: per step and process. ``workers``: processes that read videos, per device.
    ``checkpoint_steps``: steps between two states, besides the state after every epoch.
    """

    folder: Path
    training: Sequence[Example]
    validation: Sequence[Example]
    names: Names
    micro_batches: int = 1
    workers: int = 0
    checkpoint_steps: int = 500


@dataclass
class _Epoch:
    """Sums over the steps of the current epoch, and its cost."""

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_cuda_bytes: int = 0

    def add_step(self, metrics: StepMetrics) -> None:
        self.steps += 1
        self.loss += metrics.loss
        self.accuracy += metrics.accuracy

    def add_cost(self, start: float) -> None:
        self.seconds += time.perf_counter() - start
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes())
        self.peak_cuda_bytes = max(self.peak_cuda_bytes, peak_cuda_bytes())


class StageRun:
    """One stage, in folder ``job.folder / stage.name``, which may hold a state to resume from.

        model.safetensors, labels.txt       input of ``python -m export``
        recipe.json                         the recipe with this stage only
        steps.csv, metrics.csv, curves.png  history; broken_videos.csv: ids and reasons
        state.ckpt                          until the stage is finished

    Raises:
        UsageError: fewer examples than a batch holds, a batch that cannot be shared, or a state of another
            recipe or list.
        TrainingError: the loss is no longer a number, no video can be read, or the folder cannot be written.
    """

    def __init__(self, fabric: Fabric, recipe: Recipe, stage: StageConfig, model: SfaVivit, job: Job) -> None:
        self._fabric, self._recipe, self._stage, self._job = fabric, recipe, stage, job
        self._dims = model.dims
        self._folder = job.folder / stage.name
        config = recipe.optimiser_of(stage)
        self._share = Share(config.batch_size, fabric.world_size, fabric.global_rank, job.micro_batches)
        if recipe.regularisation.mixup and self._share.micro_batch_size % 2:
            raise UsageError(
                f"mixup mixes pairs: {self._share.micro_batch_size} clips are computed at a time; use fewer "
                "devices, or a smaller --accumulate"
            )
        self._epoch_steps = len(job.training) // config.batch_size
        if not self._epoch_steps:
            raise UsageError(
                f"{len(job.training)} training videos are less than a batch of {config.batch_size}; "
                "--set optimiser.batch_size"
            )
        loss = ClipLoss(model, recipe.regularisation)
        self._trainer = Trainer(
            fabric, loss, config, epoch_schedule(config, self._epoch_steps), seed=recipe.seed
        )
        self._epochs = config.epochs
        self._rows: list[EpochRow] = []
        self._epoch = _Epoch()
        self._broken: dict[str, str] = {}
        self._loss, self._accuracy = RunningMean(), RunningMean()  # for the progress bar

    def run(self) -> list[EpochRow]:
        """Train to the end of the stage and write its model."""
        first, steps = self._fabric.is_global_zero, self._trainer.schedule.steps
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (self._folder / STATE).exists():
                self._resume()
            self._fabric.barrier()  # all have looked for a state before the first may write one
            records = self._start_records() if first else nullcontext(lambda _: None)
            with records as log, work_bar(f"{self._stage.name} steps", steps, shown=first) as progress:
                while self._trainer.step < steps:
                    self._train_epoch(log, progress)
                    self._finish_epoch()
            self._write_model()
        except OSError as error:
            raise TrainingError(f"training in {self._folder}: {error.strerror or error}") from error
        return self._rows

    def _start_records(self) -> AbstractContextManager[Log]:
        for file in self._folder.iterdir():
            if TEMPORARY_NAME.fullmatch(file.name):  # of a run that was killed
                file.unlink()
        recipe = self._recipe.model_copy(update={"stages": (self._stage,)})
        atomic_write(self._folder / RECIPE, recipe.model_dump_json(indent=2).encode())
        write_names(self._job.names, self._folder)
        if self._rows:  # a run may have died between a state and its records
            self._write_records()
        return step_log(self._folder / STEPS, self._trainer.step)

    def _train_epoch(self, log: Log, progress: StepProgress) -> None:
        trainer = self._trainer
        reset_peaks()
        start = time.perf_counter()
        for metrics in trainer.steps(self._training_batches()):
            self._epoch.add_step(metrics)
            log(metrics)
            progress(trainer.step, self._loss.add(metrics.loss), self._accuracy.add(metrics.accuracy))
            if trainer.step % self._job.checkpoint_steps == 0 and trainer.step % self._epoch_steps:
                self._epoch.add_cost(start)
                start = time.perf_counter()
                self._save()
        self._epoch.add_cost(start)

    def _finish_epoch(self) -> None:
        epoch, trainer = self._epoch, self._trainer
        validation = trainer.evaluate(self._validation_batches())
        outputs = [name for name, _ in self._dims.outputs]
        row = EpochRow(
            epoch=len(self._rows) + 1,
            steps=trainer.step,
            learning_rate=trainer.optimiser.param_groups[0]["lr"],
            loss=epoch.loss / epoch.steps,
            accuracy=epoch.accuracy / epoch.steps,
            validation_loss=validation.loss,
            top1=validation.accuracy,
            seconds=epoch.seconds,
            peak_memory_bytes=epoch.peak_memory_bytes,
            peak_cuda_bytes=epoch.peak_cuda_bytes,
            broken_videos=self._gather_broken(),
            output_top1=dict(zip(outputs, validation.output_accuracies, strict=True))
            if len(outputs) > 1
            else {},
        )
        self._rows.append(row)
        self._epoch = _Epoch()
        self._save()
        if self._fabric.is_global_zero:
            self._write_records()
            say(f"{self._stage.name} epoch {row.epoch} of {self._epochs}: {row}")

    def _write_records(self) -> None:
        write_epochs(self._folder / METRICS, self._rows)
        write_broken(self._folder / BROKEN, self._broken)
        write_curves(self._folder / CURVES, {self._stage.name: self._rows})

    def _training_batches(self) -> Iterator[list[ClipBatch]]:
        """Yield the micro-batches of each step from the present one to the end of its epoch."""
        epoch, first_step = divmod(self._trainer.step, self._epoch_steps)
        places = training_micro_batches(
            len(self._job.training), self._share, seed=self._recipe.seed, epoch=epoch, first_step=first_step
        )
        clips = TrainingClips(self._job.training, self._recipe, self._stage.frames)
        micro_batches: list[ClipBatch] = []
        for batch in self._load(clips, places):
            if not batch.valid.all():
                raise TrainingError(f"no video can be read; the last one: {batch.broken[-1].reason}")
            micro_batches.append(batch)
            if len(micro_batches) == self._share.micro_batches:
                yield micro_batches
                micro_batches = []

    def _validation_batches(self) -> Iterator[ClipBatch]:
        places = validation_micro_batches(len(self._job.validation), self._share)
        clips = ValidationClips(self._job.validation, self._recipe.sampling, self._stage.frames)
        return self._load(clips, places)

    def _load(self, clips: Dataset[Clip], places: Iterator[list[Place]]) -> Iterator[ClipBatch]:
        loader = DataLoader(
            clips, batch_sampler=list(places), collate_fn=ClipBatch, num_workers=self._job.workers
        )
        try:
            for batch in loader:
                self._broken.update(batch.broken)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                "a process that reads videos died; it may have run out of memory: use fewer --workers, or "
                "more parts with --accumulate"
            ) from error

    def _gather_broken(self) -> int:
        """Share the broken videos of all processes among them; return their number."""
        if self._fabric.world_size > 1:
            found: list[Any] = [None] * self._fabric.world_size
            torch.distributed.all_gather_object(found, self._broken)
            for broken in found:
                self._broken.update(broken)
        return len(self._broken)

    def _save(self) -> None:
        self._gather_broken()
        extra = {
            "run": self._identity(),
            "rows": [tuple(row) for row in self._rows],
            "epoch": vars(self._epoch),
            "broken": self._broken,
        }
        self._trainer.save(self._folder / STATE, extra)

    def _resume(self) -> None:
        path = self._folder / STATE
        extra = saved_extra(path)
        if extra["run"] != self._identity():
            changed = sorted(key for key, value in self._identity().items() if extra["run"].get(key) != value)
            raise UsageError(
                f"{path} is the state of another run ({', '.join(changed)} differ); name another --out, or "
                "give what that run was given"
            )
        self._trainer.load(path)
        self._rows = [EpochRow(*row) for row in extra["rows"]]
        self._epoch, self._broken = _Epoch(**extra["epoch"]), dict(extra["broken"])

    def _identity(self) -> dict[str, str]:
        """Return all that must be equal for a run to be resumed; the machine may change."""
        sections = self._recipe.model_dump(mode="json", exclude={"stages", "name"})
        names = "\n".join(f"{example.item.id} {example.labels}" for example in self._job.training)
        return {
            **{name: str(section) for name, section in sections.items()},
            "stage": self._stage.model_dump_json(),
            "training list": hashlib.sha256(names.encode()).hexdigest(),
        }

    def _write_model(self) -> None:
        """Write the model from the state, which is the same for every strategy, and remove the state."""
        state = self._folder / STATE
        if self._fabric.is_global_zero:
            weights = torch.load(state, map_location="cpu", weights_only=True)["module"]
            model = SfaVivit(self._dims)
            model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
            save_checkpoint(model, model_file(self._job.folder, self._stage))
            state.unlink()
        self._fabric.barrier()


def model_file(folder: Path, stage: StageConfig) -> Path:
    """Return the path of a stage's finished model."""
    return folder / stage.name / MODEL


def finished_model(folder: Path, stage: StageConfig) -> SfaVivit | None:
    """Load the model of a finished stage; None when it is not finished."""
    path = model_file(folder, stage)
    return load_checkpoint(path).train() if path.exists() else None
