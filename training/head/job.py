"""Job that makes a head: from a list of videos to an exported head and its accuracy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.exporter import check_head, export_head
from sfavivit.datasets import VideoItem
from sfavivit.datasets.fetch import check_schemes
from sfavivit.engines.device import Device
from sfavivit.engines.torch import working_device
from sfavivit.errors import InvalidInputError, TrainingError, UsageError, VideoError
from sfavivit.evaluation.accuracy import Evaluation
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.models.vivit import TemporalTransformer
from sfavivit.repository.manifest import Repository
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES
from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.cpus import available_cpus
from sfavivit.video.source import VideoSegment
from training.classes import number_labels
from training.head.config import HeadRecipe
from training.head.features import FeatureCache, FeatureFiller, StoredVideo
from training.head.lists import HeadLists, head_classes, hold_out
from training.head.model import head_of, new_head
from training.head.ondemand_engine import open_on_demand
from training.head.train import train_head, training_steps
from training.head.windows import FeatureExample
from training.history import write_broken
from training.progress import work_bar
from training.trainer import Trained

PARITY_VIDEOS = 3
REPORT, BROKEN = "report.json", "broken_videos.csv"


@dataclass(frozen=True)
class HeadPlan:
    """Head to train: its name, the head that it starts from (None: random weights), and its folders.

    ``variants``: augmented features per training video. ``cache_bytes``: features kept in memory.
    """

    repository: Path
    name: str
    start: str | None
    recipe: HeadRecipe
    store: Path
    out: Path
    variants: int = 0
    device: Device = "cpu"
    cache_bytes: int = 4 << 30


@dataclass
class HeadReport:
    """Outcome of a head job. ``held_out``: summary of the evaluation, or None without held-out videos.

    ``devices``: device of the training, and of the engine if it computed features.
    """

    head: str
    version: int
    classes: dict[str, int]
    training_videos: int
    held_out_videos: int
    broken_videos: int
    passes_computed: int
    steps: int
    loss: float
    held_out: dict[str, Any] | None
    parity: dict[str, float]
    seconds: dict[str, float]
    devices: dict[str, str]

    def lines(self, plan: HeadPlan) -> Iterator[str]:
        """Yield the report as lines of text."""
        if self.broken_videos:
            yield f"{self.broken_videos} videos could not be read: {plan.out / BROKEN} says why"
        seconds = ", ".join(f"{what} {took:.0f} s" for what, took in self.seconds.items())
        yield f"head {self.head!r} version {self.version} is in {plan.repository} ({seconds})"
        yield ", ".join(f"{what} on {device}" for what, device in self.devices.items())
        if self.held_out is None:
            yield "held-out accuracy: not measured, since no video was held out"
            return
        for output, counts in self.held_out["outputs"].items():
            known = f"{self.classes[output]} classes"
            what = f"{output}, {known}" if output else known
            if counts["top1"] is None:
                yield f"held-out accuracy ({what}): no video has a class that the head knows"
            else:
                yield f"held-out top-1 {counts['top1']:.1%} of {counts['evaluated']} videos ({what})"
        action = self.held_out.get("action")
        if action and action["top1"] is not None:
            count = action["evaluated"]
            yield f"held-out action top-1 {action['top1']:.1%} of {count} videos (verb and noun)"


class HeadJob:
    """Extraction, training, export and evaluation of one head.

    Writes report.json, broken_videos.csv and confusion matrices to ``plan.out``.
    """

    def __init__(self, plan: HeadPlan, lists: HeadLists) -> None:
        check_head(plan.name)
        head_classes(lists.training, lists.source)  # faults of a list are found before hours of decoding
        check_schemes(item.video for item in (*lists.training, *(lists.validation or ())))
        self._plan, self._lists = plan, lists
        self._device = str(working_device(plan.device))  # a wrong one is refused now
        self._recognizer = open_on_demand(plan.repository, plan.device)
        self._store = FeatureStore(plan.store)
        threads = available_cpus()
        self._filler = FeatureFiller(self._recognizer, self._store, plan.recipe.variants, threads)
        self._cache = FeatureCache(self._store, plan.cache_bytes)
        self._broken: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def run(self) -> HeadReport:
        """Extract missing features, train, export and measure.

        Raises:
            TrainingError: no video can be read, or the loss is no longer a number.
            AnnotationError, UsageError, ExportError, RepositoryError: no valid head can be made.
            FeatureStoreError, EngineError: the store or an engine failed.
        """
        try:
            self._plan.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {str(self._plan.out)!r} cannot be made: {error.strerror}") from None
        with self._timed("features"):
            training, held_out = self._split()
            names = head_classes([video.item for video in training], self._lists.source)
            if self._plan.variants:
                numbers = range(self._plan.variants + 1)
                training = self._fill([video.item for video in training], numbers, "augmented features")
        with self._timed("training"):
            head, trained = self._train(training, names)
        with self._timed("export"):
            features = [self._cache.get(video.keys[0]) for video in training[:PARITY_VIDEOS]]
            labels = {output: tuple(known) for output, known in names.items()}
            entry = export_head(head, labels, self._plan.repository, self._plan.name, features)
        with self._timed("measuring"):
            summary = self._measure(held_out)
        report = HeadReport(
            head=self._plan.name,
            version=entry.version,
            classes={output: len(known) for output, known in names.items()},
            training_videos=len(training),
            held_out_videos=len(held_out),
            broken_videos=len(self._broken),
            passes_computed=self._filler.computed,
            steps=trained.steps,
            loss=trained.loss,
            held_out=summary,
            parity=entry.parity.model_dump(),
            seconds=self._seconds,
            devices=self._devices(),
        )
        self._write(report)
        return report

    def _devices(self) -> dict[str, str]:
        engine = {"features": self._recognizer.model.engine.device} if self._filler.computed else {}
        return {"training": self._device} | engine

    def _split(self) -> tuple[list[StoredVideo], list[StoredVideo]]:
        """Store plain features, and return the videos to train on and those to measure on."""
        lists = self._lists
        stored = self._fill(lists.training, [0], "features")
        if not stored:
            reason = next(iter(self._broken.values()))
            raise TrainingError(f"no video of {lists.source!r} can be read; the first: {reason}")
        if lists.validation is None:
            return hold_out(stored, lists.held_out, self._plan.recipe.seed)
        return stored, self._fill(lists.validation, [0], "features to measure on")

    def _fill(self, items: Sequence[VideoItem], numbers: Sequence[int], what: str) -> list[StoredVideo]:
        with work_bar(what, len(items)) as progress:
            stored, broken = self._filler.fill(items, numbers, progress)
        self._broken.update(broken)
        return stored

    def _train(
        self, videos: Sequence[StoredVideo], names: dict[str, list[str]]
    ) -> tuple[TemporalTransformer, Trained]:
        plan, repository = self._plan, self._repository
        numbered = number_labels([video.item for video in videos], names, self._lists.source)
        examples = [
            FeatureExample(video.keys, one.labels) for video, one in zip(videos, numbered, strict=True)
        ]
        start = head_of(repository, plan.start) if plan.start else None
        dims = start.dims if start else repository.manifest.dimensions
        outputs = {output: len(known) for output, known in names.items()}
        head = new_head(dims, outputs, plan.recipe, start)
        with work_bar("training steps", training_steps(plan.recipe, len(examples))) as progress:
            trained = train_head(
                head, examples, self._cache, plan.recipe, device=plan.device, progress=progress
            )
        return head, trained

    def _measure(self, videos: Sequence[StoredVideo]) -> dict[str, Any] | None:
        """Return the accuracy of the exported head, classifying as any user would; None without videos."""
        if not videos:
            return None
        recognizer, name = open_on_demand(self._plan.repository, self._plan.device), self._plan.name
        evaluation = Evaluation(recognizer.model.labels[name])
        with work_bar("held-out videos", len(videos)) as progress:
            for done, video in enumerate(videos, start=1):
                item = video.item
                try:
                    answer = recognizer.classify(
                        VideoSegment(
                            item.open(DEFAULT_FETCH_BYTES),
                            start_seconds=item.start_seconds,
                            end_seconds=item.end_seconds,
                        ),
                        ClassifyOptions(heads=(name,)),
                        store=self._store,
                    )
                except (VideoError, InvalidInputError) as error:
                    self._broken[item.id] = str(error)
                else:
                    logits = {key: value.logits for key, value in answer.heads[name].items()}
                    evaluation.add(item.labels, logits)
                progress(done)
        evaluation.write(self._plan.out, name)
        return evaluation.summary()

    @property
    def _repository(self) -> Repository:
        assert isinstance(self._recognizer.model.catalog, Repository)
        return self._recognizer.model.catalog

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[what] = round(time.perf_counter() - start, 2)

    def _write(self, report: HeadReport) -> None:
        out = self._plan.out
        try:
            write_broken(out / BROKEN, self._broken)
            atomic_write(out / REPORT, (json.dumps(asdict(report), indent=2) + "\n").encode())
        except OSError as error:
            raise UsageError(f"{str(out)!r} cannot be written: {error.strerror}") from None
