"""Videos -> rows in several processes, any of which may die.

Each worker has a pipe of its own and shares nothing with the others, so one that is killed in the middle of
anything breaks only its own pipe. It says when its models are loaded; then it takes two videos, and one more
with each video that is done, the next one being opened while the present one is answered:

    parent   ──A──B──────────C──────────D──►      worker: open A, open B, score A, open C, score B ...
             ◄─────rows of A────rows of B───

When a worker dies, the videos in its hands are tried again, each by a worker of its own. One that takes that
worker with it, too, becomes rows with an error.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from sfavivit.datasets import VideoItem
from sfavivit.errors import EngineError, SfaVivitError, WorkerDiedError
from sfavivit.repository.manifest import Catalog
from sfavivit.scoring.job_options import ModelLocation, ScoreOptions
from sfavivit.scoring.rows import Row, RowBuilder
from sfavivit.scoring.scorer import score_items
from sfavivit.scoring.stop import STOP_SIGNALS

TICK_SECONDS = 0.2
IN_HAND = 2
# Not one video but the machine is to blame when so many workers die with no video done in between.
MOST_DEATHS = 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def score_in_workers(
    items: Sequence[VideoItem],
    models: ModelLocation,
    catalog: Catalog,
    options: ScoreOptions,
    *,
    workers: int,
) -> Generator[list[Row], None, None]:
    """The rows of each video, as they come; an empty list whenever nothing has come for a moment.

    Closing the generator kills the workers. Raises as ``score_items`` and ``Recognizer.load``, and:

    Raises:
        EngineError: workers die before they have loaded the models, or one after another.
    """
    crew = _Crew(items, models, RowBuilder(catalog, options.heads), options, workers)
    try:
        yield from crew.run()
    finally:
        crew.dismiss()


@dataclass
class _Worker:
    """``alone``: it has one video, which it is to answer on its own. ``ended``: it gets no more."""

    process: SpawnProcess
    pipe: Connection
    alone: VideoItem | None = None
    ready: bool = False
    ended: bool = False
    in_hand: deque[VideoItem] = field(default_factory=deque)
    last_words: str = ""

    def give(self, item: VideoItem | None) -> None:
        """A video, or None: no more. A worker that has just died is found out when its pipe is read."""
        self.ended = item is None
        if item is not None:
            self.in_hand.append(item)
        try:
            self.pipe.send(item)
        except OSError:
            self.ended = True

    def cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return self.last_words or how


class _Crew:
    def __init__(
        self,
        items: Sequence[VideoItem],
        models: ModelLocation,
        builder: RowBuilder,
        options: ScoreOptions,
        size: int,
    ) -> None:
        self._waiting = deque(items)
        self._suspects: deque[VideoItem] = deque()
        self._models = models
        self._builder = builder
        self._options = options
        self._size = size
        self._workers: dict[Connection, _Worker] = {}
        self._deaths = 0

    def run(self) -> Generator[list[Row], None, None]:
        while self._waiting or self._suspects or self._workers:
            self._hire()
            pipes = wait(list(self._workers), TICK_SECONDS)
            if not pipes:
                yield []
            for pipe in pipes:
                assert isinstance(pipe, Connection)
                yield from self._hear(self._workers[pipe])

    def dismiss(self) -> None:
        """Kill who is left; their decoders die with them."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _hire(self) -> None:
        """Start workers as long as there are videos that nobody has and places that nobody takes."""
        unready = sum(not worker.ready and not worker.alone for worker in self._workers.values())
        while len(self._workers) < self._size and (self._suspects or len(self._waiting) > unready):
            alone = self._suspects.popleft() if self._suspects else None
            unready += not alone
            pipe, other = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            process = context.Process(
                target=work, args=(other, self._models, self._options), name="sfavivit-score", daemon=True
            )
            with _signals_blocked():
                process.start()
            other.close()
            self._workers[pipe] = _Worker(process, pipe, alone)

    def _hear(self, worker: _Worker) -> Generator[list[Row], None, None]:
        """One message of a worker: None when it is ready, rows, an error that ends the job, or its end."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._bury(worker)
            return
        if isinstance(message, WorkerDiedError):
            worker.last_words = str(message)
        elif isinstance(message, SfaVivitError):
            raise message
        elif message is None:
            worker.ready = True
            for _ in range(IN_HAND):
                self._feed(worker)
        else:
            self._deaths = 0
            worker.in_hand.popleft()
            yield message
            self._feed(worker)

    def _feed(self, worker: _Worker) -> None:
        if worker.ended:
            return
        if worker.alone:
            worker.give(None if worker.in_hand else worker.alone)
        else:
            worker.give(self._waiting.popleft() if self._waiting else None)

    def _bury(self, worker: _Worker) -> Generator[list[Row], None, None]:
        """A worker has gone: because it was done, or with videos in its hands."""
        del self._workers[worker.pipe]
        worker.pipe.close()
        cause = worker.cause_of_death()
        if not worker.ready:
            raise EngineError(
                f"a worker ended while it loaded the models: {cause}; if memory is short, use fewer workers"
            )
        if not worker.in_hand:
            return
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            raise EngineError(
                f"{self._deaths} workers ended one after another, the last by {cause}; if memory is short, "
                "use fewer workers"
            )
        if worker.alone:
            item = worker.in_hand[0]
            yield self._builder.error(
                item, WorkerDiedError(f"{item.video!r}: ended two workers, the second by {cause}")
            )
        else:
            self._suspects += worker.in_hand


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """What is started in here never gets Ctrl-C or SIGTERM, which may be sent to all: the parent decides."""
    resource_tracker.ensure_running()  # a process of multiprocessing, whose start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(pipe: Connection, models: ModelLocation, options: ScoreOptions) -> None:
    """What a worker process runs."""
    _die_with_parent()
    try:
        recognizer = models.load()
        recognizer.session(options.heads, stride_seconds=options.stride_seconds, top_k=options.top_k)
        pipe.send(None)
        for rows in score_items(recognizer, iter(pipe.recv, None), options):
            pipe.send(rows)
    except (EOFError, ConnectionError):  # the parent has gone
        return
    except SfaVivitError as error:
        pipe.send(error)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        pipe.send(WorkerDiedError(f"internal error: {reason:.500}"))


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent.pid:
        os._exit(1)
