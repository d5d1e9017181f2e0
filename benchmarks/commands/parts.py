"""Commands that measure one part of the system, or what it withstands: tables of single values."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.figures import RESULTS
from benchmarks.machine import ROOT

MODELS = ROOT / "model_repository"


def picture(
    out: Annotated[Path, typer.Option(help="SVG to write.")] = ROOT / "docs" / "demo.svg",
) -> None:
    """Draw the picture of the README."""
    from benchmarks import picture as readme_picture  # noqa: PLC0415 - loads the recognizer

    name = "docs/motions.mp4"
    readme_picture.draw(MODELS, ROOT / name, name, out)


def triton_transport(
    requests: Annotated[int, typer.Option(help="Requests of each round.")] = 160,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """Frames to Triton: inside the gRPC message against system shared memory."""
    from benchmarks import triton_transport as transport  # noqa: PLC0415 - needs torch and Triton

    with TemporaryDirectory() as folder:
        results = transport.measure(Path(folder), requests)
    report_rows("triton_transport", [asdict(result) for result in results], out)


def fuzz(
    count: Annotated[int, typer.Option(help="Mutations of the video.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same mutations.")] = 0,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = MODELS,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """Broken videos against the video service."""
    from benchmarks import fuzz as fuzzing  # noqa: PLC0415 - needs gRPC

    with TemporaryDirectory() as folder:
        video = fuzzing.short_video(Path(folder))
        report_rows("fuzz", fuzzing.measure(repository, video, count, seed), out)


def service(
    seconds: Annotated[float, typer.Option(help="Of video in each stream.")] = 30.0,
    rounds: Annotated[int, typer.Option(min=1, help="The median of so many counts.")] = 5,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = MODELS,
    name: Annotated[str, typer.Option(help="Of the result, where it is for other models.")] = "service",
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """Throughput of the video service against the engine alone."""
    from benchmarks import service as services  # noqa: PLC0415 - needs gRPC

    report_rows(name, services.measure(repository, seconds, rounds), out)


def scoring(
    repository: Annotated[
        Path | None, typer.Option(help="Model repository with two heads (default: one of size B is made).")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Clips of ten seconds.")] = 4,
    view_videos: Annotated[int, typer.Option(min=1, help="Of those, how many are scored in many views.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """What scoring costs from videos, from the feature store, with a second head, in many views."""
    from benchmarks import scoring as costs  # noqa: PLC0415 - needs pyarrow
    from benchmarks.models import random_repository  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        models = repository or random_repository(Path(folder) / "models", "B", "int8", heads=2)
        results = costs.measure(models, Path(folder), videos, view_videos)
    report_rows("scoring", [asdict(result) for result in results], out)


def resume(
    videos: Annotated[int, typer.Option(min=1, help="Short videos.")] = 300,
    broken: Annotated[int, typer.Option(help="Of those, how many are broken.")] = 30,
    kills: Annotated[int, typer.Option(help="How often the job is killed.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the job.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed, the same moments.")] = 0,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = MODELS,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """A scoring job that is killed again and again, against one that is left alone."""
    from benchmarks import resume as jobs  # noqa: PLC0415 - needs pyarrow

    with TemporaryDirectory() as folder:
        result = jobs.measure(
            repository, Path(folder), videos=videos, broken=broken, kills=kills, workers=workers, seed=seed
        )
    report_rows("resume", [asdict(result)], out)


def new_head(
    videos: Annotated[int, typer.Option(min=10, help="To learn from.")] = 50,
    held_out: Annotated[int, typer.Option(min=5, help="To judge by.")] = 100,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = MODELS,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """From labelled videos to a served head, and an epoch on stored features against one on frames."""
    from benchmarks import new_head as heads  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        results = heads.measure(repository, Path(folder), videos, held_out)
    rows = [{**asdict(result), "value": round(result.value, 3)} for result in results]
    report_rows("new_head", rows, out)


def selection(
    tubelets: Annotated[
        list[int] | None, typer.Option(min=1, help="To learn from; repeatable (default: 32, 16, 8).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Heads that a figure is the mean of.")] = 3,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = MODELS,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = RESULTS,
) -> None:
    """New heads that learn from some tubelets of each window, against one that learns from all."""
    from benchmarks import selection as selecting  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        results = selecting.measure(repository, Path(folder), tubelets or [32, 16, 8], seeds)
    report_rows("selection", [asdict(result) for result in results], out)


def report_rows(name: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Write ``NAME.json`` and show its rows, which are single values: there are no repeats to compare."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"benchmark": name, "machine": machine.describe(), "rows": rows}, indent=2)
    (out / f"{name}.json").write_text(text + "\n")
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
