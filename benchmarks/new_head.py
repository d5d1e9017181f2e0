"""A new head: from 50 videos to served answers, and the cost of an epoch on stored features and on frames."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.command_options import DEMO_MODEL, HeldOutVideos, ModelRepository, Out, TrainingVideos
from benchmarks.figures import RESULTS, ROOT, Case, Figure, Row, report, seconds_figure
from benchmarks.measuring import ratios, timed
from examples.motions.encoding import write_video
from examples.motions.rendering import MOTIONS, sample_scene
from examples.motions.videos import FPS, HELD_OUT_SIZES, motion_frames
from sfavivit.cli.options import DeviceOption
from sfavivit.datasets import read_items
from sfavivit.features.store import FeatureStore
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Repository
from training.batches import Share, training_micro_batches
from training.classes import number_labels
from training.clips import ClipBatch, ValidationClips
from training.config import RegularisationConfig
from training.hardware import make_fabric
from training.head.config import HeadRecipe, VariantConfig
from training.head.features import FeatureCache, FeatureFiller
from training.head.lists import head_classes
from training.head.model import head_of, new_head
from training.head.ondemand_engine import open_on_demand
from training.head.train import HeadLoss, few_threads, head_optimiser
from training.head.windows import FeatureExample, Windows
from training.loss import ClipLoss
from training.optimiser import Schedule
from training.trainer import Trainer

ORDERS = list(permutations(("move_left", "blink", "rotate_clockwise")))[:5]
MOTION_SECONDS = 3.4  # three of them are a window
TRAINING_SEED, HELD_OUT_SEED = 2024, 2025
HEAD = "orders"
STORED_EPOCHS = 5


def command(
    videos: TrainingVideos = 50,
    held_out: HeldOutVideos = 100,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Time a new head from labelled videos to served answers, and epochs on features and on frames."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        training = write_videos(folder / "training", videos, TRAINING_SEED)
        validation = write_videos(folder / "held_out", held_out, HELD_OUT_SEED)
        own = Path(shutil.copytree(repository, folder / "model_repository"))
        load = os.getloadavg()[0]
        options = {
            "--manifest": training,
            "--validation": validation,
            "--repository": own,
            "--name": HEAD,
            "--store": folder / "store",
            "--out": folder / "out",
            "--device": device,
        }
        words = [str(word) for pair in options.items() for word in pair]
        train = [sys.executable, "-m", "training", "head", *words]
        seconds = timed(lambda: subprocess.run(train, cwd=ROOT, check=True))
        trained = json.loads((folder / "out" / "report.json").read_text())
        epochs = _epochs(own, training, folder / "store")
    accuracy = trained["held_out"]["outputs"][""]["top1"]
    whole = {
        "time": seconds_figure(seconds),
        "held-out top-1": Figure("share", "higher", (accuracy,)),
        "load": Figure("processes", "neither", (load,)),
    }
    case: Case = {"videos": videos, "held-out videos": held_out}
    stages = {"total": whole}
    stages |= {stage: {"time": seconds_figure(took)} for stage, took in trained["seconds"].items()}
    rows = [Row({**case, "stage": stage}, figures) for stage, figures in stages.items()]
    rows += [Row({**case, "epoch of": epoch}, figures) for epoch, figures in epochs.items()]
    report("new_head", rows, out)


def write_videos(folder: Path, count: int, seed: int) -> Path:
    """Write ``count`` videos of the orders in turn, of random sizes and scenes; return their CSV."""
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


class StoredVideos:
    """Videos of a list as stored features: one variant of each, or ``variants``."""

    def __init__(
        self, repository: Path, listed: Path, store: FeatureStore, variants: VariantConfig | None = None
    ) -> None:
        self.items = read_items(str(listed))
        self.names = head_classes(self.items, str(listed))
        self.labelled = number_labels(self.items, self.names, str(listed))
        filler = FeatureFiller(
            open_on_demand(repository, "cpu"), store, variants or VariantConfig(), threads=2
        )
        stored, _ = filler.fill(self.items, [0], lambda _: None)
        self.examples = [
            FeatureExample(video.keys, one.labels) for video, one in zip(stored, self.labelled, strict=True)
        ]


def _epochs(repository: Path, listed: Path, store: Path) -> dict[str, dict[str, Figure]]:
    """Time an epoch of a head on stored features, and of the whole model on the frames of the same videos."""
    recipe, catalog = HeadRecipe(), Repository.load(repository)
    kept = FeatureStore(store)
    videos = StoredVideos(repository, listed, kept, recipe.variants)
    start = head_of(catalog, "default")
    outputs = {output: len(known) for output, known in videos.names.items()}
    head = new_head(start.dims, outputs, recipe, start)
    windows = Windows(videos.examples, FeatureCache(kept, 1 << 30), head.dims.max_tubelets, recipe)
    size = head_optimiser(recipe, len(videos.labelled)).batch_size
    steps = len(videos.labelled) // size
    batches = windows.batches(size, STORED_EPOCHS + 1)
    on_features = _epoch_of(HeadLoss(head, recipe), recipe, steps * (STORED_EPOCHS + 1))
    # The first epoch reads the store; a run has a hundred that do not.
    with few_threads(head):
        first, *rest = (timed(lambda: on_features(islice(batches, steps))) for _ in range(STORED_EPOCHS + 1))

    on_frames = _epoch_of(ClipLoss(SfaVivit(head.dims), RegularisationConfig()), recipe, 2 * steps)
    manifest = catalog.manifest
    clips = ValidationClips(videos.labelled, manifest.sampling, manifest.dimensions.max_frames)
    decoded: list[list[ClipBatch]] = []
    places = training_micro_batches(len(videos.labelled), Share(size), seed=0, epoch=0)
    decoding = timed(
        lambda: decoded.extend([ClipBatch([clips[place] for place in batch])] for batch in places)
    )
    # The faster of all cores and one core, since other work may be going on.
    computing = timed(lambda: on_frames(decoded))
    with few_threads(head):
        computing = min(computing, timed(lambda: on_frames(decoded)))
    return {
        "a head, features being read from the store": {"time": seconds_figure(first)},
        "a head, features in memory": {"time": seconds_figure(*rest)},
        "the whole model, from videos": _against(decoding + computing, rest),
        "the whole model, frames in memory": _against(computing, rest),
    }


def _epoch_of(learner: nn.Module, recipe: HeadRecipe, steps: int) -> Callable[[Iterable[Any]], object]:
    """Return a function that trains ``learner`` on the batches of an epoch; ``steps``: of all epochs."""
    torch.manual_seed(0)
    trainer = Trainer(make_fabric(), learner, recipe.optimiser, Schedule(steps, 1), seed=0)
    return lambda batches: trainer.train(batches, lambda *_: None)


def _against(seconds: float, stored: Sequence[float]) -> dict[str, Figure]:
    """Return the time of an epoch, and the factor by which epochs on ``stored`` features are faster."""
    factors = ratios([seconds] * len(stored), stored)
    return {
        "time": seconds_figure(seconds),
        "features in memory are faster": Figure("x", "higher", factors),
    }
