"""Scoring on a Ray cluster, by Ray Data.

    this process   items ──► Ray Data ──► actors with the models ──► rows, as they come ──► parts (job.py)
                                            │ ▲
                                    one ledger of the videos begun

An actor has two videos in flight, each in a thread of its own, so that one is opened and decoded while the
other is scored. An error that is to end the job comes back as data: Ray would wrap it in its tracebacks.

When an actor dies, Ray starts it again, with the same videos, as often as it dies. So the ledger decides when
to stop: a video that was begun before and has not ended is tried again with no other one beside it, and
becomes rows with an error when its actor dies of that, too.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Lock, Semaphore, Thread
from typing import Any

import pyarrow as pa
import ray
import ray.data

from sfavivit.datasets import VideoItem
from sfavivit.engines import TRITON_SCHEME
from sfavivit.errors import EngineError, SfaVivitError, WorkerDiedError
from sfavivit.inference.recognizer import Recognizer
from sfavivit.repository.manifest import Catalog
from sfavivit.scoring.job_options import ModelLocation, ScoreOptions
from sfavivit.scoring.rows import Row, RowBuilder
from sfavivit.scoring.scorer import score_items
from sfavivit.scoring.workers import MAX_DEATHS, MAX_IN_FLIGHT, TICK_SECONDS
from sfavivit.utils.network import masked_url
from sfavivit.utils.text import error_line

MAX_TRIES = 2
_MAX_QUEUED = 100
_COLUMN = "pickled"

_Outcome = tuple[VideoItem, list[Row] | SfaVivitError]
"""A video and its rows; a ``WorkerDiedError`` becomes rows with an error, any other error ends the job."""


def score_on_ray(
    items: Sequence[VideoItem],
    models: ModelLocation,
    catalog: Catalog,
    options: ScoreOptions,
    *,
    workers: int,
    gpus: float = 0.0,
) -> Generator[list[Row], None, None]:
    """Yield the rows of each video as they come, and an empty list whenever nothing has come for a moment.

    This process must be connected to the cluster (``machines.ray_cluster``); the end, or closing the
    generator, disconnects it. The paths of the models, of the store and of videos must be valid on every
    machine of the cluster. Raises as ``score_items`` and ``Recognizer.load``, and:

    Args:
        items: videos to score.
        models: models to load; each worker gets ``models.threads`` cores.
        catalog: manifest and labels of these models.
        options: how to score.
        workers: number of actors.
        gpus: GPUs of each worker, possibly a fraction of one.

    Raises:
        EngineError: actors die one after another; the cluster fails.
    """
    try:
        if items:
            dataset = _dataset(items, models, options, workers, gpus)
            with closing(_outcomes(dataset)) as outcomes:
                yield from _rows(outcomes, RowBuilder(catalog, options.classify.heads))
    finally:
        ray.shutdown()


def _rows(outcomes: Iterator[_Outcome | None], builder: RowBuilder) -> Generator[list[Row], None, None]:
    done: set[str] = set()
    for outcome in outcomes:
        if outcome is None:
            yield []
            continue
        item, result = outcome
        if isinstance(result, WorkerDiedError):
            result = builder.error(item, result)
        if isinstance(result, SfaVivitError):
            raise result
        if item.id not in done:  # Ray repeats finished work of a machine that is lost
            done.add(item.id)
            yield result


def _dataset(
    items: Sequence[VideoItem], models: ModelLocation, options: ScoreOptions, workers: int, gpus: float
) -> ray.data.Dataset:
    """Return a lazy dataset of the outcomes, one block per video."""
    if models.repository.startswith(TRITON_SCHEME):
        gpus = 0.0  # Triton has them
    elif models.device == "cpu":
        gpus = 0.0
    else:
        models = replace(models, repository=str(Path(models.repository).absolute()))
    if options.store:
        options = replace(options, store=str(Path(options.store).absolute()))
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items(
        [{_COLUMN: pickle.dumps(item)} for item in items], override_num_blocks=len(items)
    ).map_batches(
        Scorer,
        fn_constructor_args=(models, options, ledger),
        batch_size=1,
        batch_format="pyarrow",
        # One task more than runs at a time, so that an actor need not wait for this process.
        compute=ray.data.ActorPoolStrategy(
            size=min(workers, len(items)),
            max_concurrent_calls_per_actor=MAX_IN_FLIGHT,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=MAX_IN_FLIGHT + 1,
        ),
        num_cpus=models.threads or 1,
        num_gpus=gpus or None,
    )


def _outcomes(dataset: ray.data.Dataset) -> Generator[_Outcome | None, None, None]:
    """Yield outcomes as they come, read in a thread; None whenever nothing has come for a moment."""
    queue: Queue[_Outcome | Exception | None] = Queue(_MAX_QUEUED)
    closed = Event()

    def put(outcome: _Outcome | Exception | None) -> None:
        while not closed.is_set():
            try:
                queue.put(outcome, timeout=TICK_SECONDS)
            except Full:
                continue
            return

    def read() -> None:
        try:
            batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for batch in batches:
                for outcome in batch[_COLUMN].to_pylist():
                    put(pickle.loads(outcome))  # noqa: S301 - of our own actors
                if closed.is_set():
                    break
            put(None)
        except Exception as error:
            put(error)

    thread = Thread(target=read, name="sfavivit-ray", daemon=True)
    thread.start()
    try:
        while True:
            try:
                outcome = queue.get(timeout=TICK_SECONDS)
            except Empty:
                yield None
                continue
            if outcome is None:
                return
            if isinstance(outcome, Exception):
                raise EngineError(f"the Ray cluster failed: {error_line(outcome)}") from outcome
            yield outcome
    finally:
        closed.set()
        # The thread ends with the next outcome. Ray would end this process if it were shut down before.
        thread.join()


class Ledger:
    """Actor that counts the videos begun and not ended; it outlives the actors that score."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._deaths = 0

    def tries(self, video: str) -> int:
        """Return how often a video was begun and did not end."""
        return self._begun[video]

    def begin(self, video: str) -> int:
        """Note a video as begun; returns how many were begun again since the last one that ended."""
        self._deaths += video in self._begun
        self._begun[video] += 1
        return self._deaths

    def end(self, video: str) -> None:
        """Note a video as ended."""
        self._begun.pop(video, None)
        self._deaths = 0


class Scorer:
    """Actor that scores videos in ``MAX_IN_FLIGHT`` threads. It loads the models with the first video."""

    def __init__(self, models: ModelLocation, options: ScoreOptions, ledger: Any) -> None:
        self._models = models
        self._options = options
        self._ledger = ledger
        self._recognizer: Recognizer | None = None
        self._loading, self._taking = Lock(), Lock()
        self._slots = Semaphore(MAX_IN_FLIGHT)

    def __call__(self, batch: pa.Table) -> pa.Table:
        outcomes = [self._outcome(pickle.loads(item)) for item in batch[_COLUMN].to_pylist()]  # noqa: S301
        return pa.table({_COLUMN: pa.array(map(pickle.dumps, outcomes), pa.large_binary())})

    def _outcome(self, item: VideoItem) -> _Outcome:
        tries = ray.get(self._ledger.tries.remote(item.id))
        if tries >= MAX_TRIES:
            return item, WorkerDiedError(
                f"{masked_url(item.video)!r}: ended {tries} workers; Ray's logs tell how"
            )
        with self._slots_taken(MAX_IN_FLIGHT if tries else 1):
            deaths = ray.get(self._ledger.begin.remote(item.id))
            if deaths >= MAX_DEATHS:
                return item, EngineError(
                    f"{deaths} workers of the Ray cluster ended one after another (Ray's logs tell how); "
                    "if memory is short, use fewer workers"
                )
            result = self._score(item)
            self._ledger.end.remote(item.id)
            return item, result

    def _score(self, item: VideoItem) -> list[Row] | SfaVivitError:
        try:
            return next(score_items(self._loaded(), [item], self._options))
        except SfaVivitError as error:
            return error
        except Exception as error:
            return WorkerDiedError(f"{masked_url(item.video)!r}: internal error: {error_line(error)}")

    def _loaded(self) -> Recognizer:
        with self._loading:
            if self._recognizer is None:
                self._recognizer = self._models.load()
            return self._recognizer

    @contextmanager
    def _slots_taken(self, count: int) -> Iterator[None]:
        with self._taking:  # one thread at a time, or two would wait for each other's slots
            for _ in range(count):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(count)
