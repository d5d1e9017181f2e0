"""``head``: a new head for a repository, from a list of labelled videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from sfavivit.cli.options import AlignOption
from sfavivit.datasets import VideoItem
from sfavivit.errors import UsageError
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.repository.manifest import read_manifest
from training.head_config import load_head_recipe
from training.head_job import BROKEN, HeadJob, HeadLists, HeadPlan, HeadReport
from training.lists import read_lists
from training.watch import say

DEFAULT_HEAD = "default"
DEFAULT_HELD_OUT = 0.2


def head(
    manifest: Annotated[
        str,
        typer.Option(
            help="List of labelled videos, as paths or URLs (CSV, JSON, Parquet ...). With a column split, "
            "its rows of train are learned from, those of validation measured on, those of test left alone."
        ),
    ],
    repository: Annotated[Path, typer.Option(help="Model repository that gets the head.")],
    name: Annotated[str, typer.Option(help="Of the head; a name that is there gets a new version.")],
    store: Annotated[Path, typer.Option(help="Feature store, made if need be.")] = Path("runs/features"),
    out: Annotated[Path | None, typer.Option(help="Folder for reports (default: runs/NAME).")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of every class to measure on, where no list says on what (default: 0.2).",
        ),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="A list to measure on, if the other has no rows of validation.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder or URL where relative videos of the lists start.")
    ] = None,
    from_head: Annotated[
        str | None,
        typer.Option(help="Head that the weights start from (default: the only one, or 'default')."),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")] = False,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of what differs from the defaults.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A value of the recipe: optimiser.learning_rate=0.001.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Windows of each video.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed, the same head.")] = None,
    select: Annotated[
        int | None,
        typer.Option(min=1, help="Learn from the so many most novel tubelets of a window (default: all)."),
    ] = None,
    variants: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Augmented features of each video; --set variants.flip=0 if left and right are classes.",
        ),
    ] = 0,
    align_to_tubelets: AlignOption = False,
    accelerator: Annotated[
        Literal["cpu", "cuda", "auto"], typer.Option(help="What to train on; cpu repeats to the last bit.")
    ] = "cpu",
) -> None:
    """Train a head on stored features (what is missing is extracted), export it, and measure it."""
    if from_scratch and from_head:
        raise UsageError(f"--from-head {from_head} and --from-scratch exclude each other; give one")
    given = {"optimiser.epochs": epochs, "seed": seed, "select": select}
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    plan = HeadPlan(
        repository=repository,
        name=name,
        start=None if from_scratch else _start(repository, from_head),
        recipe=load_head_recipe(recipe, [*(settings or ()), *named]),
        store=store,
        out=out or Path("runs") / name,
        variants=variants,
        accelerator=accelerator,
    )
    training, measured = read_lists(manifest, validation, root=root)
    if align_to_tubelets:
        training = _snapped(training, repository)
        measured = measured and _snapped(measured, repository)
    if measured is not None and held_out is not None:
        raise UsageError(
            f"--held-out {held_out:g} is for a list that does not say what to measure on; "
            f"{validation or manifest!r} says so: leave --held-out out"
        )
    share = DEFAULT_HELD_OUT if held_out is None else held_out
    _say(HeadJob(plan, HeadLists(manifest, training, measured, share)).run(), plan)


def _snapped(items: Sequence[VideoItem], repository: Path) -> list[VideoItem]:
    manifest = read_manifest(repository)
    rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)
    return [align_to_tubelets(item, rate) for item in items]


def _start(repository: Path, wanted: str | None) -> str:
    """The head to start from. Raises ``HeadNotFoundError``, ``UsageError`` where it must be named."""
    manifest = read_manifest(repository)
    heads = list(manifest.heads)
    if wanted is None and len(heads) > 1 and DEFAULT_HEAD not in heads:
        raise UsageError(f"{repository} has the heads {', '.join(heads)}; say which with --from-head")
    chosen = wanted or (DEFAULT_HEAD if DEFAULT_HEAD in heads else heads[0])
    manifest.head(chosen)
    return chosen


def _say(report: HeadReport, plan: HeadPlan) -> None:
    """What came of it, in a few lines."""
    if report.broken_videos:
        say(f"{report.broken_videos} videos could not be read: {plan.out / BROKEN} says why")
    seconds = ", ".join(f"{what} {took:.0f} s" for what, took in report.seconds.items())
    say(f"head {report.head!r} version {report.version} is in {plan.repository} ({seconds})")
    if report.held_out is None:
        say("held-out accuracy: not measured, since no video was held out")
        return
    for output, counts in report.held_out["outputs"].items():
        known = f"{report.classes[output]} classes"
        what = f"{output}, {known}" if output else known
        if counts["top1"] is None:
            say(f"held-out accuracy ({what}): no video has a class that the head knows")
            continue
        say(f"held-out top-1 {counts['top1']:.1%} of {counts['evaluated']} videos ({what})")
    action = report.held_out.get("action")
    if action and action["top1"] is not None:
        say(f"held-out action top-1 {action['top1']:.1%} of {action['evaluated']} videos (verb and noun)")
