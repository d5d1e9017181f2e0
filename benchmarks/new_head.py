"""A new head: from 50 videos to served answers, and what an epoch costs on stored features and on frames.

The classes are five of the six orders in which three motions can follow one another. The demo model knows the
motions; their order is new to it, and which of them occur says nothing.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.figures import Case, Figure, Row
from benchmarks.machine import ROOT
from benchmarks.operations import timed
from examples.motions.encoding import write_video
from examples.motions.rendering import MOTIONS, sample_scene
from examples.motions.videos import FPS, HELD_OUT_SIZES, motion_frames
from sfavivit.datasets import read_items
from sfavivit.features.store import FeatureStore
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Repository
from training.batches import Place, Share, training_parts
from training.classes import Example, number_labels
from training.clips import Clip, ClipBatch, read_clip
from training.config import RegularisationConfig
from training.hardware import make_fabric
from training.head import HeadLearner
from training.head.config import HeadRecipe
from training.head.features import FeatureCache, FeatureFiller
from training.head.lists import head_classes
from training.head.model import head_of, new_head
from training.head.ondemand_engine import open_on_demand
from training.head.train import few_threads, head_optimiser
from training.head.windows import FeatureExample, Windows
from training.loss import ClipLoss
from training.optimiser import Schedule
from training.trainer import Trainer

ORDERS = list(permutations(("move_left", "blink", "rotate_clockwise")))[:5]
MOTION_SECONDS = 3.4  # three of them are a window
TRAINING_SEED, HELD_OUT_SEED = 2024, 2025
HEAD = "orders"
STORED_EPOCHS = 5


def measure(repository: Path, folder: Path, videos: int, held_out: int) -> list[Row]:
    """Make the videos, run the command on a copy of ``repository``, then take one epoch each way.

    ``load``: processes on all cores before the command.
    """
    training = write_videos(folder / "training", videos, TRAINING_SEED)
    validation = write_videos(folder / "held_out", held_out, HELD_OUT_SEED)
    own = Path(shutil.copytree(repository, folder / "model_repository"))
    load = os.getloadavg()[0]
    seconds = timed(lambda: _command(own, training, validation, folder))
    report = json.loads((folder / "out" / "report.json").read_text())
    accuracy = report["held_out"]["outputs"][""]["top1"]
    whole = {
        **_time(seconds),
        "held-out top-1": Figure("share", "higher", (accuracy,)),
        "load": Figure("processes", "neither", (load,)),
    }
    case: Case = {"videos": videos, "held-out videos": held_out}
    stages = {"total": whole} | {stage: _time(took) for stage, took in report["seconds"].items()}
    return [
        *(Row({**case, "stage": stage}, figures) for stage, figures in stages.items()),
        *(
            Row({**case, "epoch of": epoch}, figures)
            for epoch, figures in _epochs(own, training, folder / "store").items()
        ),
    ]


def _time(*seconds: float) -> dict[str, Figure]:
    return {"time": Figure("s", "lower", seconds)}


def write_videos(folder: Path, count: int, seed: int) -> Path:
    """The list of ``count`` videos of the orders in turn, of random sizes and scenes."""
    folder.mkdir()
    rows = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        order = ORDERS[number % len(ORDERS)]
        height, width = HELD_OUT_SIZES[rng.integers(len(HELD_OUT_SIZES))]
        segments = [(motion, MOTION_SECONDS) for motion in order]
        frames = motion_frames(sample_scene(rng, width / height), segments, height, width, rng)
        write_video(folder / f"{number}.mp4", frames, fps=FPS)
        rows.append((f"{number}.mp4", ", then ".join(MOTIONS[motion] for motion in order)))
    path = folder / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "label"), *rows])
    return path


def _command(repository: Path, training: Path, validation: Path, folder: Path) -> None:
    options = {
        "--manifest": training,
        "--validation": validation,
        "--repository": repository,
        "--name": HEAD,
        "--store": folder / "store",
        "--out": folder / "out",
    }
    words = [str(word) for pair in options.items() for word in pair]
    subprocess.run([sys.executable, "-m", "training", "head", *words], cwd=ROOT, check=True)


def _epochs(repository: Path, listed: Path, store: Path) -> dict[str, dict[str, Figure]]:
    """An epoch of a head on stored features, and of all of the same model on the same videos' frames."""
    recipe, catalog = HeadRecipe(), Repository.load(repository)
    items = read_items(str(listed))
    names = head_classes(items, str(listed))
    examples = number_labels(items, names, str(listed))
    start = head_of(catalog, "default")
    outputs = {output: len(known) for output, known in names.items()}
    head = new_head(start.dims, outputs, recipe, start)

    kept = FeatureStore(store)
    filler = FeatureFiller(open_on_demand(repository), kept, recipe.variants, threads=2)
    stored, _ = filler.fill(items, [0], lambda _: None)
    windows = Windows(
        [FeatureExample(video.keys, one.labels) for video, one in zip(stored, examples, strict=True)],
        FeatureCache(kept, 1 << 30),
        head.dims.max_tubelets,
        recipe,
    )
    size = head_optimiser(recipe, len(examples)).batch_size
    steps = len(examples) // size
    on_features = _trainer(HeadLearner(head, recipe), recipe, steps * (STORED_EPOCHS + 1))
    batches = windows.batches(size, STORED_EPOCHS + 1)
    # The first epoch reads the store; a run has a hundred that do not.
    with few_threads(head):
        first, *rest = (timed(lambda: _take(on_features, batches, steps)) for _ in range(STORED_EPOCHS + 1))

    model = SfaVivit(head.dims)
    on_frames = _trainer(ClipLoss(model, RegularisationConfig()), recipe, 2 * steps)
    clips = _clips(examples, catalog)
    decoding, decoded = 0.0, []
    for places in training_parts(len(examples), Share(size), seed=0, epoch=0):
        began = time.perf_counter()
        decoded.append([ClipBatch([clips(place) for place in places])])
        decoding += time.perf_counter() - began
    # With all cores and with one, whichever is faster, since other work may be going on.
    computing = timed(lambda: _take(on_frames, iter(decoded), steps))
    with few_threads(head):
        computing = min(computing, timed(lambda: _take(on_frames, iter(decoded), steps)))
    return {
        "a head, features being read from the store": _time(first),
        "a head, features in memory": _time(*rest),
        "the whole model, from videos": _against(decoding + computing, rest),
        "the whole model, frames in memory": _against(computing, rest),
    }


def _against(seconds: float, stored: Sequence[float]) -> dict[str, Figure]:
    """How long one epoch took, and how many times faster each of those on ``stored`` features was."""
    ratios = tuple(seconds / one for one in stored)
    return {**_time(seconds), "features in memory are faster": Figure("x", "higher", ratios)}


def _trainer(learner: nn.Module, recipe: HeadRecipe, steps: int) -> Trainer:
    torch.manual_seed(0)
    fabric = make_fabric()
    return Trainer(fabric, learner, recipe.optimiser, Schedule(steps, 1), seed=0)


def _take(trainer: Trainer, batches: Iterator[Sequence[Any]], steps: int) -> None:
    for _ in trainer.steps(islice(batches, steps)):
        pass


def _clips(examples: Sequence[Example], catalog: Repository) -> Callable[[Place], Clip]:
    """Reads the frames of a window of a video, as serving samples them."""
    sampling, frames = catalog.manifest.sampling, catalog.manifest.dimensions.max_frames

    def clip(place: Place) -> Clip:
        example = examples[place.example]
        read = torch.from_numpy(read_clip(example.item, sampling, frames, at=0.0))
        return Clip(read, example.labels, 1.0, valid=True, broken=())

    return clip
