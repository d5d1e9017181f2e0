"""``stage1``, ``stage2`` and ``chain``: the paper's training, as a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer
from lightning_fabric import Fabric

from export.outputs import read_label_files
from sfavivit.datasets.fetch import check_schemes
from sfavivit.errors import RepositoryError, UsageError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import parse_labels
from sfavivit.utils.text import printable
from training.classes import Example, class_names, number_labels
from training.config import Recipe, StageConfig, load_recipe
from training.hardware import Precision, Strategy, make_fabric
from training.lists import read_lists
from training.record import near_peak_epoch
from training.run import BROKEN, Job, StageRun, finished_model, model_file
from training.stages import check_start, stage_model
from training.watch import say, stage_bar

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of one in training/recipes, or path of a .toml file.")
]
TrainingList = Annotated[
    str,
    typer.Option(
        "--train",
        help="List of labelled videos, as paths or URLs (CSV, JSON, Parquet ...). With a column split, its "
        "rows of train are learned from, those of validation measured on, those of test left alone.",
    ),
]
ValidationList = Annotated[
    str | None,
    typer.Option("--validation", help="A list to measure on, if the other has no rows of validation."),
]
Out = Annotated[Path, typer.Option(help="Folder for models, states and records.")]
Initial = Annotated[
    Path | None, typer.Option(help="Checkpoint of the model that the first stage starts from.")
]
ImageCheckpoint = Annotated[
    Path | None, typer.Option(help="ViT image checkpoint, timm naming: where the spatial half starts.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A value of the recipe: optimiser.learning_rate=0.01.")
]
Root = Annotated[str | None, typer.Option(help="Folder or URL where relative videos of the lists start.")]
LabelFiles = Annotated[
    list[str] | None, typer.Option("--labels", help="Class names, one a line; NAME=FILE for several outputs.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what OUT has.")]
Accelerator = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What to compute on.")]
Devices = Annotated[int, typer.Option(min=0, help="Processes a node, one a device; 0: all there are.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
StrategyName = Annotated[Strategy, typer.Option(help="fsdp shards the model, where it is too large.")]
PrecisionName = Annotated[Precision, typer.Option(help="bf16-mixed is faster on most GPUs.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Parts a process computes its share of a batch in.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read videos, for each device.")]
CheckpointSteps = Annotated[int, typer.Option(min=1, help="Steps between two states to go on from.")]


class Lists(NamedTuple):
    """The videos of both lists, and what their classes are called."""

    training: Sequence[Example]
    validation: Sequence[Example]
    names: dict[str, list[str]]


# Which of a recipe's stages a command trains, and what its help says.
COMMANDS: dict[str, tuple[slice, str]] = {
    "stage1": (slice(0, 1), "Train the recipe's first stage: the whole model, on few frames."),
    "stage2": (
        slice(1, None),
        "Train the stages after the first: from OUT's stage I or --initial, the spatial half frozen.",
    ),
    "chain": (slice(None), "Train all stages of the recipe, one after the other."),
}


def register(app: typer.Typer) -> None:
    """Add the commands: they take the same options, and differ in the stages they train."""
    for name, (_, text) in COMMANDS.items():
        app.command(name, help=text)(train_stages)


def train_stages(
    context: typer.Context,
    recipe: RecipeName,
    train: TrainingList,
    out: Out,
    validation: ValidationList = None,
    image_checkpoint: ImageCheckpoint = None,
    initial: Initial = None,
    settings: Settings = None,
    root: Root = None,
    labels: LabelFiles = None,
    resume: Resume = False,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: StrategyName = "auto",
    precision: PrecisionName = "32-true",
    accumulate: Accumulate = 1,
    workers: Workers = 2,
    checkpoint_steps: CheckpointSteps = 500,
) -> None:
    """Train some of a recipe's stages, each from the one before."""
    loaded = load_recipe(recipe, settings or ())
    which, _ = COMMANDS[str(context.info_name)]
    stages = loaded.stages[which]
    if not stages:
        raise UsageError(f"recipe {recipe!r} has one stage only: train it with stage1")
    if initial is None and which.start:
        before = model_file(out, loaded.stages[which.start - 1])
        initial = before if before.exists() else None
    previous = load_checkpoint(initial).train() if initial else None
    lists = _read_lists(loaded, train, validation, root, labels or [])
    # What can be wrong is found before processes start, which would otherwise wait for each other.
    check_start(stages, previous, image_checkpoint)
    if not resume:
        _refuse_existing(out, stages)
    fabric = make_fabric(accelerator, devices, nodes, strategy, precision)
    fabric.launch()
    job = Job(out, *lists, accumulate, workers, checkpoint_steps)
    for stage in stages:
        previous = _train_stage(fabric, loaded, stage, previous, image_checkpoint, job)


def _train_stage(
    fabric: Fabric,
    recipe: Recipe,
    stage: StageConfig,
    previous: SfaVivit | None,
    image_checkpoint: Path | None,
    job: Job,
) -> SfaVivit:
    """The stage's model, trained unless it is there already."""
    if model := finished_model(job.folder, stage):
        return model
    start = stage_model(recipe, stage, previous, image_checkpoint)
    shown = fabric.is_global_zero
    with stage_bar(stage.name, recipe.optimiser_of(stage).epochs, shown=shown) as bar:
        rows = StageRun(fabric, recipe, stage, start, job).run(bar)
    if shown:
        best = max(rows, key=lambda row: row.top1)
        say(
            f"{stage.name}: best {best.top1_name} {best.top1:.1%}, near-peak epoch {near_peak_epoch(rows)} "
            f"of {len(rows)}, model in {model_file(job.folder, stage)}"
        )
        if broken := rows[-1].broken_videos:
            say(f"{broken} videos could not be read; see {job.folder / stage.name / BROKEN}")
    model = finished_model(job.folder, stage)
    assert model
    return model


def _read_lists(
    recipe: Recipe, train: str, validation: str | None, root: str | None, label_options: Sequence[str]
) -> Lists:
    outputs = recipe.model.outputs
    items, measured = read_lists(train, validation, root=root)
    if measured is None:
        raise UsageError(
            f"nothing says what to measure on: give --validation, or {train!r} a column split that says "
            "train or validation"
        )
    check_schemes(item.video for item in (*items, *measured))
    given = _given_names(label_options, outputs) if label_options else None
    names = given or class_names(items, outputs, train)
    return Lists(
        number_labels(items, names, train), number_labels(measured, names, validation or train), names
    )


def _given_names(options: Sequence[str], outputs: dict[str, int]) -> dict[str, list[str]]:
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


def _refuse_existing(out: Path, stages: Sequence[StageConfig]) -> None:
    for stage in stages:
        if (out / stage.name).exists():
            raise UsageError(f"{out / stage.name} exists already; go on with --resume, or name another --out")
