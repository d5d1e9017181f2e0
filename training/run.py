"""A stage as it runs: epochs of clips, evaluation, records, and a state to go on from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from sfavivit.errors import TrainingError, UsageError
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.utils.atomic import atomic_write
from training.batches import Place, Share, training_parts, validation_parts
from training.classes import Example, Names, write_names
from training.clips import Clip, ClipBatch, TrainingClips, ValidationClips
from training.config import Recipe, StageConfig
from training.learner import ClipLearner
from training.memory import peak_cuda_bytes, peak_memory_bytes, reset_peaks
from training.optimiser import epoch_schedule
from training.record import EpochRow, StepLog, write_broken, write_curves, write_epochs
from training.trainer import StepFigures, Trainer, saved_extra

MODEL, RECIPE, STATE = "model.safetensors", "recipe.json", "state.ckpt"
STEPS, METRICS, CURVES, BROKEN = "steps.csv", "metrics.csv", "curves.png", "broken_videos.csv"


class Monitor(Protocol):
    """Who watches; called in the first process only."""

    def step(self, figures: StepFigures, steps: int) -> None: ...

    def epoch(self, row: EpochRow) -> None: ...


@dataclass(frozen=True)
class Job:
    """What a stage runs on. ``checkpoint_steps``: between two states, besides that after every epoch."""

    folder: Path
    training: Sequence[Example]
    validation: Sequence[Example]
    names: Names
    parts: int = 1
    workers: int = 0
    checkpoint_steps: int = 500


@dataclass
class _Epoch:
    """Sums over the steps of an epoch so far."""

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_cuda_bytes: int = 0


@dataclass
class _Progress:
    """All of a stage's state that the trainer does not have."""

    rows: list[EpochRow] = field(default_factory=list)
    epoch: _Epoch = field(default_factory=_Epoch)
    broken: dict[str, str] = field(default_factory=dict)


class StageRun:
    """One stage, in folder ``job.folder / stage.name``, which may hold a state to go on from.

        model.safetensors, labels.txt       what ``python -m export`` takes
        recipe.json                         what was asked for, this stage only
        steps.csv, metrics.csv, curves.png  what happened; broken_videos.csv: names and reasons
        state.ckpt                          until the stage is finished

    Raises:
        UsageError: fewer examples than a batch holds, a batch that cannot be shared, or a state of another
            recipe or list.
        TrainingError: the loss is no longer a number, no video can be read, or the folder not be written.
    """

    def __init__(self, fabric: Fabric, recipe: Recipe, stage: StageConfig, model: SfaVivit, job: Job) -> None:
        self._fabric, self._recipe, self._stage, self._job = fabric, recipe, stage, job
        self._dims = model.dims
        self._folder = job.folder / stage.name
        config = recipe.optimiser_of(stage)
        self._share = Share(config.batch_size, fabric.world_size, fabric.global_rank, job.parts)
        if recipe.regularisation.mixup and self._share.part_size % 2:
            raise UsageError(
                f"mixup mixes pairs: {self._share.part_size} clips are computed at a time; use fewer "
                "devices, or a smaller --accumulate"
            )
        self._epoch_steps = len(job.training) // config.batch_size
        if not self._epoch_steps:
            raise UsageError(
                f"{len(job.training)} training videos are less than a batch of {config.batch_size}; "
                "--set optimiser.batch_size"
            )
        learner = ClipLearner(model, recipe.regularisation)
        schedule = epoch_schedule(config, self._epoch_steps)
        self._trainer = Trainer(fabric, learner, config, schedule, seed=recipe.seed)
        self._progress = _Progress()

    def run(self, monitor: Monitor) -> list[EpochRow]:
        """Train to the end of the stage, and write its model."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (self._folder / STATE).exists():
                self._resume()
            self._fabric.barrier()  # all have looked for a state before the first may write one
            log = self._start_records() if self._fabric.is_global_zero else None
            try:
                while self._trainer.step < self._trainer.schedule.steps:
                    self._train_epoch(monitor, log)
                    self._finish_epoch(monitor)
            finally:
                if log:
                    log.close()
            self._write_model()
        except OSError as error:
            raise TrainingError(f"training in {self._folder}: {error.strerror or error}") from error
        return self._progress.rows

    def _start_records(self) -> StepLog:
        recipe = self._recipe.model_copy(update={"stages": (self._stage,)})
        atomic_write(self._folder / RECIPE, recipe.model_dump_json(indent=2).encode())
        write_names(self._job.names, self._folder)
        if self._progress.rows:  # a run may have died between a state and its records
            self._write_records()
        return StepLog(self._folder / STEPS, self._trainer.step)

    def _train_epoch(self, monitor: Monitor, log: StepLog | None) -> None:
        trainer, epoch = self._trainer, self._progress.epoch
        reset_peaks()
        start = time.perf_counter()
        for figures in trainer.steps(self._training_batches()):
            epoch.steps += 1
            epoch.loss += figures.loss
            epoch.accuracy += figures.accuracy
            if log:
                log.add(figures)
                monitor.step(figures, trainer.schedule.steps)
            if trainer.step % self._job.checkpoint_steps == 0 and trainer.step % self._epoch_steps:
                self._measure(epoch, start)
                start = time.perf_counter()
                if log:
                    log.flush()
                self._save()
        self._measure(epoch, start)
        if log:
            log.flush()

    @staticmethod
    def _measure(epoch: _Epoch, start: float) -> None:
        epoch.seconds += time.perf_counter() - start
        epoch.peak_memory_bytes = max(epoch.peak_memory_bytes, peak_memory_bytes())
        epoch.peak_cuda_bytes = max(epoch.peak_cuda_bytes, peak_cuda_bytes())

    def _finish_epoch(self, monitor: Monitor) -> None:
        progress, epoch, trainer = self._progress, self._progress.epoch, self._trainer
        measured = trainer.measure(self._validation_batches())
        outputs = [name for name, _ in self._dims.outputs]
        row = EpochRow(
            epoch=len(progress.rows) + 1,
            steps=trainer.step,
            learning_rate=trainer.optimiser.param_groups[0]["lr"],
            loss=epoch.loss / epoch.steps,
            accuracy=epoch.accuracy / epoch.steps,
            validation_loss=measured.loss,
            top1=measured.accuracy,
            seconds=epoch.seconds,
            peak_memory_bytes=epoch.peak_memory_bytes,
            peak_cuda_bytes=epoch.peak_cuda_bytes,
            broken_videos=self._gather_broken(),
            output_top1=dict(zip(outputs, measured.parts, strict=True)) if len(outputs) > 1 else {},
        )
        progress.rows.append(row)
        progress.epoch = _Epoch()
        self._save()
        if self._fabric.is_global_zero:
            self._write_records()
            monitor.epoch(row)

    def _write_records(self) -> None:
        rows = self._progress.rows
        write_epochs(self._folder / METRICS, rows)
        write_broken(self._folder / BROKEN, self._progress.broken)
        write_curves(self._folder / CURVES, {self._stage.name: rows})

    def _training_batches(self) -> Iterator[list[ClipBatch]]:
        """The parts of each step from the present one to the end of its epoch."""
        epoch, first_step = divmod(self._trainer.step, self._epoch_steps)
        places = training_parts(
            len(self._job.training), self._share, seed=self._recipe.seed, epoch=epoch, first_step=first_step
        )
        clips = TrainingClips(self._job.training, self._recipe, self._stage.frames)
        parts: list[ClipBatch] = []
        for part in self._load(clips, places):
            if not part.valid.all():
                raise TrainingError(f"no video can be read; the last one: {part.broken[-1].reason}")
            parts.append(part)
            if len(parts) == self._share.parts:
                yield parts
                parts = []

    def _validation_batches(self) -> Iterator[ClipBatch]:
        places = validation_parts(len(self._job.validation), self._share)
        clips = ValidationClips(self._job.validation, self._recipe.sampling, self._stage.frames)
        return self._load(clips, places)

    def _load(self, clips: Dataset[Clip], places: Iterator[list[Place]]) -> Iterator[ClipBatch]:
        loader = DataLoader(
            clips, batch_sampler=list(places), collate_fn=ClipBatch, num_workers=self._job.workers
        )
        try:
            for batch in loader:
                self._progress.broken.update(batch.broken)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                "a process that reads videos died; it may have run out of memory: use fewer --workers, or "
                "more parts with --accumulate"
            ) from error

    def _gather_broken(self) -> int:
        """Make every process know what any of them found broken; how many videos that is."""
        if self._fabric.world_size > 1:
            found: list[Any] = [None] * self._fabric.world_size
            torch.distributed.all_gather_object(found, self._progress.broken)
            for broken in found:
                self._progress.broken.update(broken)
        return len(self._progress.broken)

    def _save(self) -> None:
        self._gather_broken()
        progress = self._progress
        extra = {
            "run": self._identity(),
            "rows": [tuple(row) for row in progress.rows],
            "epoch": vars(progress.epoch),
            "broken": progress.broken,
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
        rows = [EpochRow(*row) for row in extra["rows"]]
        self._progress = _Progress(rows, _Epoch(**extra["epoch"]), dict(extra["broken"]))

    def _identity(self) -> dict[str, str]:
        """What must be the same for a run to go on: all but the machine."""
        sections = self._recipe.model_dump(mode="json", exclude={"stages", "name"})
        names = "\n".join(f"{example.item.id} {example.labels}" for example in self._job.training)
        return {
            **{name: str(section) for name, section in sections.items()},
            "stage": self._stage.model_dump_json(),
            "training list": hashlib.sha256(names.encode()).hexdigest(),
        }

    def _write_model(self) -> None:
        """From the state, which is the same for every strategy; then the state has done its duty."""
        state = self._folder / STATE
        if self._fabric.is_global_zero:
            weights = torch.load(state, map_location="cpu", weights_only=True)["learner"]
            model = SfaVivit(self._dims)
            model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
            save_checkpoint(model, model_file(self._job.folder, self._stage))
            state.unlink()
        self._fabric.barrier()


def model_file(folder: Path, stage: StageConfig) -> Path:
    """Where the model of a finished stage is."""
    return folder / stage.name / MODEL


def finished_model(folder: Path, stage: StageConfig) -> SfaVivit | None:
    """The model of a stage that is done; None when it is not."""
    path = model_file(folder, stage)
    return load_checkpoint(path).train() if path.exists() else None
