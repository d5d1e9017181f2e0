"""Stages of a recipe in a row, each from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from export.outputs import read_label_files
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import RepositoryError, UsageError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.repository.manifest import parse_labels
from sfavivit.utils.text import printable
from training.classes import Example, class_names, number_labels
from training.config import Recipe, StageConfig
from training.history import near_peak_epoch
from training.progress import say
from training.splits import read_lists
from training.stage_run import BROKEN, Job, StageRun, finished_model, model_file
from training.stages import check_start, stage_model


def read_examples(
    recipe: Recipe, train: str, validation: str | None, root: str | None, label_files: Sequence[str]
) -> tuple[list[Example], list[Example], dict[str, list[str]]]:
    """Return the examples to train on and to validate on, and the class names {output: names}.

    Names are read from ``label_files``, or else from the training list.

    Raises:
        UsageError: there is no validation list, a URL cannot be fetched, or label files do not fit.
        AnnotationError: a list that cannot be read or does not fit the recipe's outputs.
    """
    items, measured = read_lists(train, validation, root=root)
    if measured is None:
        raise UsageError(
            f"nothing says what to measure on: give --validation, or {train!r} a column split that says "
            "train or validation"
        )
    check_schemes(item.video for item in (*items, *measured))
    outputs = recipe.model.outputs
    names = _read_names(label_files, outputs) if label_files else class_names(items, outputs, train)
    training = number_labels(items, names, train)
    return training, number_labels(measured, names, validation or train), names


def train_chain(
    fabric: Fabric,
    recipe: Recipe,
    stages: Sequence[StageConfig],
    job: Job,
    *,
    initial: Path | None,
    image_checkpoint: Path | None,
    resume: bool,
) -> None:
    """Train consecutive stages of a recipe; stages that are finished already are loaded.

    ``initial``: model that the first one starts from; by default that of the stage before it, where
    ``job.folder`` has it.

    Raises:
        UsageError: a checkpoint is missing, or a folder exists and ``resume`` is not set.
        TrainingError: a stage cannot continue.
    """
    index = recipe.stages.index(stages[0])
    if initial is None and index:
        before = model_file(job.folder, recipe.stages[index - 1])
        initial = before if before.exists() else None
    previous = load_checkpoint(initial).train() if initial else None
    # Mistakes are found before processes start, which would otherwise wait for each other.
    check_start(stages, previous, image_checkpoint)
    for stage in stages:
        if not resume and (folder := job.folder / stage.name).exists():
            raise UsageError(f"{folder} exists already; go on with --resume, or name another --out")
    fabric.launch()
    if fabric.is_global_zero:
        say(f"training on {fabric.device}, processes: {fabric.world_size}")
    for stage in stages:
        if not (model := finished_model(job.folder, stage)):
            start = stage_model(recipe, stage, previous, image_checkpoint)
            rows = StageRun(fabric, recipe, stage, start, job).run()
            if fabric.is_global_zero:
                best = max(rows, key=lambda row: row.top1)
                say(
                    f"{stage.name}: best {best.top1_name} {best.top1:.1%}, near-peak epoch "
                    f"{near_peak_epoch(rows)} of {len(rows)}, model in {model_file(job.folder, stage)}"
                )
                if broken := rows[-1].broken_videos:
                    say(f"{broken} videos could not be read; see {job.folder / stage.name / BROKEN}")
            model = finished_model(job.folder, stage)
        previous = model


def _read_names(options: Sequence[str], outputs: dict[str, int]) -> dict[str, list[str]]:
    files = read_label_files(options)
    if set(files) != set(outputs):
        raise UsageError(
            f"--labels must name files for the outputs {sorted(outputs)} of the recipe, got {sorted(files)}"
        )
    names = {}
    for output, file in files.items():
        try:
            names[output] = list(parse_labels(file.read_bytes(), file, outputs[output]))
        except OSError as error:
            raise UsageError(f"--labels {printable(str(file))}: {error.strerror}") from None
        except RepositoryError as error:
            raise UsageError(f"--labels: {error}") from None
    return names
