"""Command line of the training: ``python -m training stage1 | stage2 | chain | head``.

The work is imported when a command runs, so that ``--help`` needs no torch.
"""

# ruff: noqa: PLC0415 - as said above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli.options import AlignOption, DeviceOption
from sfavivit.cli.run import run_app
from sfavivit.errors import UsageError
from training.config import Precision, Strategy, load_recipe
from training.head.config import load_head_recipe

SPLITS_HELP = (
    "List of labelled videos, as paths or URLs (CSV, JSON, Parquet ...). With a column split, rows of train "
    "are for training, rows of validation for measuring, and rows of test are not used."
)

ValidationOption = Annotated[
    str | None, typer.Option(help="List to measure on, if the other list has no rows of validation.")
]
RootOption = Annotated[
    str | None, typer.Option(help="Folder or URL that relative paths of videos start from.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Value that replaces one of the recipe: optimiser.learning_rate=0.01."),
]

# Stages of the recipe that each command trains, and its help.
STAGE_COMMANDS: dict[str, tuple[slice, str]] = {
    "stage1": (slice(0, 1), "Train the first stage of a recipe: the whole model, on few frames."),
    "stage2": (
        slice(1, None),
        "Train the stages after the first, with the spatial half frozen, from OUT's stage I or --initial.",
    ),
    "chain": (slice(None), "Train all stages of a recipe, each from the one before."),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """Train a model in the stages of a recipe, or a new head on stored features."""


def train_stages(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Name of a recipe in training/recipes, or path of a .toml file."
        ),
    ],
    train: Annotated[str, typer.Option("--train", help=SPLITS_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for models, states and histories.")],
    validation: ValidationOption = None,
    image_checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Image ViT (timm naming, or JAX's .npz or msgpack): initial weights of the spatial half."
        ),
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Checkpoint of the model that the first stage starts from.")
    ] = None,
    settings: SettingsOption = None,
    root: RootOption = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Class names, one a line; NAME=FILE for several outputs."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(min=0, help="Devices per machine, a process each; 0: all.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines.")] = 1,
    strategy: Annotated[
        Strategy, typer.Option(help="fsdp shards a model that is too large for a device.")
    ] = "auto",
    precision: Annotated[Precision, typer.Option(help="bf16-mixed is faster on most GPUs.")] = "32-true",
    accumulate: Annotated[
        int, typer.Option(min=1, help="Micro-batches per step and process, for less memory.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read videos, per device.")] = 2,
    checkpoint_steps: Annotated[
        int, typer.Option(min=1, help="Steps between two states that --resume continues from.")
    ] = 500,
) -> None:
    """Train some of a recipe's stages."""
    loaded = load_recipe(recipe, settings or ())
    stages = loaded.stages[STAGE_COMMANDS[str(context.info_name)][0]]
    if not stages:
        raise UsageError(f"recipe {recipe!r} has one stage only: train it with stage1")
    from training.chain import read_examples, train_chain
    from training.hardware import make_fabric
    from training.stage_run import Job

    examples = read_examples(loaded, train, validation, root, labels or [])
    train_chain(
        make_fabric(device, devices, nodes, strategy, precision),
        loaded,
        stages,
        Job(out, *examples, accumulate, workers, checkpoint_steps),
        initial=initial,
        image_checkpoint=image_checkpoint,
        resume=resume,
    )


for _name, (_, _help) in STAGE_COMMANDS.items():
    app.command(_name, help=_help)(train_stages)


@app.command()
def head(
    manifest: Annotated[str, typer.Option(help=SPLITS_HELP)],
    repository: Annotated[Path, typer.Option(help="Model repository that gets the head.")],
    name: Annotated[str, typer.Option(help="Name of the head; an existing head gets a new version.")],
    store: Annotated[Path, typer.Option(help="Feature store, created if needed.")] = Path("runs/features"),
    out: Annotated[Path | None, typer.Option(help="Folder for reports (default: runs/NAME).")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of each class to measure on, where no list names videos for it (default: 0.2).",
        ),
    ] = None,
    validation: ValidationOption = None,
    root: RootOption = None,
    from_head: Annotated[
        str | None,
        typer.Option(help="Head that the weights start from (default: the only one, or 'default')."),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file of values that replace the defaults.")
    ] = None,
    settings: SettingsOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of training epochs.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed; the same seed gives the same head.")
    ] = None,
    select: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train on this many tubelets of a window, the most novel ones (default: all)."
        ),
    ] = None,
    variants: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Augmented features per video; --set variants.flip=0 if left and right are classes.",
        ),
    ] = 0,
    align_to_tubelets: AlignOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train a head on stored features (missing ones are extracted), export it, and measure it."""
    if from_scratch and from_head:
        raise UsageError(f"--from-head {from_head} and --from-scratch exclude each other; give one")
    given = {"optimiser.epochs": epochs, "seed": seed, "select": select}
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    loaded = load_head_recipe(recipe, [*(settings or ()), *named])
    from training.head.job import HeadJob, HeadPlan
    from training.head.lists import read_head_lists
    from training.head.model import choose_start
    from training.progress import say

    plan = HeadPlan(
        repository=repository,
        name=name,
        start=None if from_scratch else choose_start(repository, from_head),
        recipe=loaded,
        store=store,
        out=out or Path("runs") / name,
        variants=variants,
        device=device,
    )
    lists = read_head_lists(
        manifest, validation, root, held_out, align_to=repository if align_to_tubelets else None
    )
    for line in HeadJob(plan, lists).run().lines(plan):
        say(line)


if __name__ == "__main__":
    run_app(app)
