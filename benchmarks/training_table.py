"""The paper's table on synthetic videos: accuracy and cost of each way to train one model.

Accuracies and costs are measured separately, since costs need a quiet machine:

    WORK/settings.json          what all of it was measured with
    WORK/*.npy                  frames of the videos
    WORK/seed-0/image/          start of the spatial halves: model.safetensors, and its top1.json
    WORK/seed-0/short+long/     the last stage of a chain: model.safetensors, and epochs.json when it is done
    WORK/costs.json             seconds and memory of an epoch, from processes of their own

Stages that are there are not trained again: chains share their first stages, and a killed run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from pydantic import ValidationError

from benchmarks.command_options import Names, Out, check_known
from benchmarks.figures import RESULTS, ROOT, Case, Figure, Row, report, seconds_figure
from benchmarks.sign_videos import PICTURE_SIGNS, Clips, make_clips
from benchmarks.training_variants import (
    LONG_FULL,
    NEW_TEMPORAL,
    NOT_INITIALISED,
    SFA,
    Chain,
    Scale,
    kind,
    recipe_of,
    stage_training,
    train_image_model,
    variants,
    write_image_checkpoint,
)
from sfavivit.config import validation_summary
from sfavivit.errors import UsageError
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.utils.atomic import atomic_write
from training.config import StageConfig
from training.history import EpochRow, near_peak_epoch
from training.progress import say
from training.stages import stage_model

TRAINING_SEED, VALIDATION_SEED, HELD_OUT_SEED = 1, 2, 3
FIRST_VALIDATION_SEED = 100  # of weights
SETTINGS, COSTS = "settings.json", "costs.json"
IMAGE, MODEL, EPOCHS, IMAGE_TOP1 = "image", "model.safetensors", "epochs.json", "top1.json"
THREADS = 1  # the model is too small for more
POINT = 1.0  # of top-1, in %
MIB = 1 << 20
TOP1, NEAR_PEAK, COST, MEMORY = "top-1", "near-peak epoch", "cost", "peak memory"  # names of figures


def command(
    work: Annotated[
        Path, typer.Option(help="Folder of runs and costs; stages that it has are not measured again.")
    ] = ROOT / "runs" / "training-table",
    seeds: Annotated[int, typer.Option(min=0, help="Number of seeds to train; 0 only makes the table.")] = 3,
    costs: Annotated[
        bool, typer.Option("--costs", help="Measure an epoch of each kind instead of training.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of costs.")] = 5,
    settings: Annotated[
        Names, typer.Option("--set", help="NAME=VALUE of benchmarks.training_variants.Scale; repeatable.")
    ] = None,
    out: Out = RESULTS,
) -> None:
    """Train the paper's variants on synthetic videos, and test the paper's claims."""
    scale = parse_scale(settings or [])
    table = TrainingTable(work, scale)
    if costs:
        table.measure_costs(rounds)
    else:
        for seed in table.seeds(seeds):
            table.train(seed)
    options = "".join(f" --set {setting}" for setting in settings or [])
    passes = [f"python -m benchmarks training-table{options}{option}" for option in ("", " --costs")]
    folder = work if scale.validation else out
    report("training_table", table_rows(table), folder, command=" && ".join(passes))


def parse_scale(settings: list[str]) -> Scale:
    """Return the scale with these settings, each NAME=VALUE; raise ``UsageError`` for an invalid one."""
    values: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings)
    check_known("setting", values, asdict(Scale()))
    try:
        return Scale(**values)
    except ValidationError as error:
        raise UsageError(f"--set: {validation_summary(error)}") from error


class Cost(NamedTuple):
    """Samples of an epoch's seconds, and of its memory beyond model and clips."""

    seconds: list[float]
    memory_bytes: list[int]


class TrainingTable:
    """The folder ``work`` with the measurements at ``scale``.

    Raises:
        UsageError: ``work`` holds measurements at another scale.
    """

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work, self.scale = work, scale
        self.variants = variants(scale)
        work.mkdir(parents=True, exist_ok=True)
        settings = work / SETTINGS
        if not settings.exists():
            atomic_write(settings, json.dumps(asdict(scale)).encode())
        if (found := json.loads(settings.read_text())) != asdict(scale):
            raise UsageError(f"{work} holds runs with {found}, not {asdict(scale)}: name another --work")

    def clips(self) -> tuple[Clips, Clips]:
        """Return the training clips and the held-out clips."""
        name, seed = ("validation", VALIDATION_SEED) if self.scale.validation else ("held_out", HELD_OUT_SEED)
        training = make_clips(self.work / "training.npy", self.scale.training, TRAINING_SEED)
        return training, make_clips(self.work / f"{name}.npy", self.scale.held_out, seed)

    def seeds(self, count: int) -> range:
        """Return seeds of weights and clips; those that chose the settings are never those reported."""
        first = FIRST_VALIDATION_SEED if self.scale.validation else 0
        return range(first, first + count)

    def train(self, seed: int) -> None:
        """Train the image model and all variants with the weights and clips of ``seed``."""
        torch.set_num_threads(THREADS)
        training, held_out = self.clips()
        self._train_image_model(seed)
        for chain in self.variants.values():
            for length in range(1, len(chain) + 1):
                self._train_stage(chain[:length], seed, training, held_out)

    def _train_image_model(self, seed: int) -> None:
        folder = self._seed_folder(seed) / IMAGE
        if (folder / IMAGE_TOP1).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        model, top1 = train_image_model(seed, self.scale.pictures, self.scale.image_epochs)
        write_image_checkpoint(model, folder / MODEL)
        atomic_write(folder / IMAGE_TOP1, json.dumps(top1).encode())
        say(f"seed {seed}, {IMAGE}: top-1 {top1:.1%}")

    def _train_stage(self, chain: Chain, seed: int, training: Clips, held_out: Clips) -> None:
        folder = self._folder(chain, seed)
        if (folder / EPOCHS).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        previous = load_checkpoint(self._folder(chain[:-1], seed) / MODEL) if len(chain) > 1 else None
        image_checkpoint = self._seed_folder(seed) / IMAGE / MODEL
        recipe = recipe_of(self.scale, seed)
        model = stage_model(recipe, chain[-1], previous, image_checkpoint)
        run = stage_training(recipe, chain[-1], model, training)
        rows = [run.epoch(number, held_out) for number in range(run.epochs)]
        save_checkpoint(model, folder / MODEL)
        atomic_write(folder / EPOCHS, json.dumps([row._asdict() for row in rows]).encode())
        say(
            f"seed {seed}, {folder.name}: top-1 {rows[-1].top1:.1%}, near-peak epoch {near_peak_epoch(rows)} "
            f"of {len(rows)}, {sum(row.seconds for row in rows):.0f} s"
        )

    def _folder(self, chain: Chain, seed: int) -> Path:
        return self._seed_folder(seed) / "+".join(stage.name for stage in chain)

    def _seed_folder(self, seed: int) -> Path:
        return self.work / f"seed-{seed}"

    def image_top1(self) -> list[float]:
        """Return the top-1 of the image model, for each finished seed."""
        files = sorted(self.work.glob(f"seed-*/{IMAGE}/{IMAGE_TOP1}"))
        return [json.loads(file.read_text()) for file in files]

    def epochs(self, chain: Chain) -> list[list[EpochRow]]:
        """Return the epochs of the last stage of ``chain``, for each finished seed."""
        files = sorted(self.work.glob(f"seed-*/{self._folder(chain, 0).name}/{EPOCHS}"))
        return [[EpochRow(**row) for row in json.loads(file.read_text())] for file in files]

    def measure_costs(self, rounds: int) -> None:
        """Measure an epoch of every kind of stage, in turn, each in a process; replaces former costs."""
        self.clips()
        kinds = {kind(stage): stage for chain in self.variants.values() for stage in chain}
        costs: dict[str, Cost] = {name: Cost([], []) for name in kinds}
        for _ in range(rounds):
            for name, stage in kinds.items():
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    seconds, memory = process.submit(epoch_cost, self, stage).result()
                costs[name].seconds.append(seconds)
                costs[name].memory_bytes.append(memory)
                say(f"{name}: {seconds:.2f} s an epoch, {memory >> 20} MiB")
        text = json.dumps({name: cost._asdict() for name, cost in costs.items()})
        atomic_write(self.work / COSTS, text.encode())

    def costs(self) -> dict[str, Cost]:
        """Return the costs by kind of stage; empty before they are measured."""
        file = self.work / COSTS
        found = json.loads(file.read_text()) if file.exists() else {}
        return {name: Cost(**cost) for name, cost in found.items()}


def epoch_cost(table: TrainingTable, stage: StageConfig) -> tuple[float, int]:
    """Return seconds and bytes of a stage's first epoch, in this process, from untrained weights."""
    torch.set_num_threads(THREADS)
    recipe = recipe_of(table.scale, 0)
    first = _from_random(recipe.stages[0])
    previous = stage_model(recipe, first, None, None) if stage.needs_previous else None
    training, held_out = table.clips()
    resident = Clips(np.array(training.frames), training.labels)
    model = stage_model(recipe, _from_random(stage), previous, None)
    row = stage_training(recipe, stage, model, resident).epoch(0, held_out)
    return row.seconds, row.peak_memory_bytes


def _from_random(stage: StageConfig) -> StageConfig:
    """Return the stage with random weights in place of an image checkpoint."""
    return stage.model_copy(update={"spatial": "random"}) if stage.spatial == "image" else stage


class Claim(NamedTuple):
    """A claim of the paper, the quantity ``measured`` in ``unit``, and whether it holds."""

    text: str
    measured: float
    unit: str
    holds: bool


def table_rows(table: TrainingTable) -> list[Row]:
    """Return the row of the image model, and a row for each variant and each claim.

    Top-1 is that of the last epoch; the near-peak epoch is counted in the last stage; costs are those of all
    stages.
    """
    costs = table.costs()
    figures = {name: _figures(chain, table.epochs(chain), costs) for name, chain in table.variants.items()}
    rows = [_image_row(table)]
    for name, chain in table.variants.items():
        stages = ", ".join(f"{stage.frames} frames x {stage.epochs}" for stage in chain)
        rows.append(Row({"variant": name, "stages": stages}, figures[name]))
    for claim in claims(figures):
        measured = Figure(claim.unit, "neither", (claim.measured,))
        holds = Figure("", "neither", (float(claim.holds),))
        rows.append(Row({"claim": claim.text}, {"measured": measured, "holds": holds}))
    return rows


def _image_row(table: TrainingTable) -> Row:
    """Return the row of the image model, whose cost does not count: the paper's image models are given."""
    scale, top1 = table.scale, table.image_top1()
    case: Case = {"image model": f"{PICTURE_SIGNS} signs, {scale.pictures} pictures x {scale.image_epochs}"}
    return Row(case, _top1_figures(top1) if top1 else {})


def _top1_figures(top1: Sequence[float]) -> dict[str, Figure]:
    """Return the figures of ``top1``, a share for each seed."""
    percent = tuple(100 * one for one in top1)
    return {
        TOP1: Figure("%", "higher", percent),
        f"mean {TOP1}": Figure("%", "higher", (fmean(percent),)),
    }


def _figures(
    chain: Chain, seeds: Sequence[Sequence[EpochRow]], costs: Mapping[str, Cost]
) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    peaks = [near_peak_epoch(rows) or 0 for rows in seeds]
    if seeds:
        figures |= _top1_figures([rows[-1].top1 for rows in seeds])
        figures[NEAR_PEAK] = Figure("", "lower", tuple(peaks))
    if costs:
        seconds = [costs[kind(stage)].seconds for stage in chain]
        memory = np.max([costs[kind(stage)].memory_bytes for stage in chain], axis=0) / MIB
        epochs = [stage.epochs or 0 for stage in chain]
        totals = np.dot(epochs, seconds).tolist()
        figures["epoch"] = seconds_figure(*seconds[-1])
        figures[COST] = seconds_figure(*totals)
        figures[MEMORY] = Figure("MiB", "lower", tuple(memory))
        if peaks:
            saved = [(epochs[-1] - peak) * median(seconds[-1]) for peak in peaks]
            figures["cost to near-peak"] = seconds_figure(*(median(totals) - value for value in saved))
    return figures


def claims(figures: Mapping[str, Mapping[str, Figure]]) -> Iterator[Claim]:
    """Test the claims of arXiv 2306.04822: its abstract's on SFA models against full training (model E), and
    its ablations' on initialisation. Claims whose figures are missing are left out.
    """
    full = figures[LONG_FULL]
    for name in SFA:
        sfa = figures[name]
        if COST in full:
            cost = sfa[COST].median / full[COST].median
            yield Claim(f"{name} costs half of E or less, all stages", cost, "x", cost <= 0.5)
            memory = sfa[MEMORY].median / full[MEMORY].median
            yield Claim(f"{name} takes less memory than E", memory, "x", memory < 1)
        if _comparable(sfa, full):
            epochs = _mean(sfa, NEAR_PEAK) / _mean(full, NEAR_PEAK)
            yield Claim(f"{name} is near its peak in half of E's epochs or less", epochs, "x", epochs <= 0.5)
            lead = _mean(sfa, TOP1) - _mean(full, TOP1)
            yield Claim(f"{name} is within a point of E, or better", lead, "points", lead >= -POINT)
    for name in (NOT_INITIALISED, NEW_TEMPORAL):
        if _comparable(figures[name], figures["SFA C"]):
            loss = _mean(figures["SFA C"], TOP1) - _mean(figures[name], TOP1)
            yield Claim(f"{name}: over a point worse than SFA C", loss, "points", loss > POINT)


def _comparable(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> bool:
    """Return whether both were trained with as many seeds: a run may be unfinished."""
    return TOP1 in first and TOP1 in second and len(first[TOP1].samples) == len(second[TOP1].samples)


def _mean(figures: Mapping[str, Figure], name: str) -> float:
    return fmean(figures[name].samples)
