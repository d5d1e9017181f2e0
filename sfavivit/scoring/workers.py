"""Scoring in several worker processes, any of which may die.

Each worker has a pipe of its own and shares nothing with the others, so one that is killed in the middle of
anything breaks only its own pipe. It reports when its models are loaded, then gets two videos, and one more
with each that is done, so that the next one is opened while the present one is scored:

    parent   ──A──B──────────C──────────D──►      worker: open A, open B, score A, open C, score B ...
             ◄─────rows of A────rows of B───

When a worker dies, the videos that it had are tried again, each by a worker of its own. One that ends that
worker, too, becomes rows with an error.
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
from sfavivit.utils.network import masked_url
from sfavivit.utils.text import error_line

TICK_SECONDS = 0.2
MAX_IN_FLIGHT = 2  # videos a worker has at a time
MAX_DEATHS = 20  # workers that died with no video done in between: the machine is at fault, not one video
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def score_in_workers(
    items: Sequence[VideoItem],
    models: ModelLocation,
    catalog: Catalog,
    options: ScoreOptions,
    *,
    workers: int,
) -> Generator[list[Row], None, None]:
    """Yield the rows of each video as they come, and an empty list whenever nothing has come for a moment.

    Closing the generator kills the workers. Raises as ``score_items`` and ``Recognizer.load``, and:

    Raises:
        EngineError: workers die before they have loaded the models, or one after another.
    """
    builder = RowBuilder(catalog, options.classify.heads)
    pool = _WorkerPool(deque(items), models, builder, options, workers)
    try:
        yield from pool.run()
    finally:
        pool.close()


@dataclass
class _Worker:
    """A worker process, and the videos it has.

    Attributes:
        retried: the only video of a worker that was started to try it again.
        ready: whether it has loaded the models.
        ended: whether it has been told that no more videos come.
        in_flight: videos it was sent and has not answered.
        reported: error that it reported before it ended.
    """

    process: SpawnProcess
    pipe: Connection
    retried: VideoItem | None = None
    ready: bool = False
    ended: bool = False
    in_flight: deque[VideoItem] = field(default_factory=deque)
    reported: str = ""

    def send(self, item: VideoItem | None) -> None:
        """Send a video, or None for the end. That a worker has just died shows when its pipe is read."""
        self.ended = item is None
        if item is not None:
            self.in_flight.append(item)
        try:
            self.pipe.send(item)
        except OSError:
            self.ended = True

    def exit_reason(self) -> str:
        """Wait for the process to end; returns the error it reported, or else its signal or exit code."""
        self.process.join()
        code = self.process.exitcode or 0
        reason = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return self.reported or reason


@dataclass
class _WorkerPool:
    """Up to ``size`` workers, replaced as they die, until no videos are waiting."""

    waiting: deque[VideoItem]
    models: ModelLocation
    builder: RowBuilder
    options: ScoreOptions
    size: int
    retries: deque[VideoItem] = field(default_factory=deque)
    workers: dict[Connection, _Worker] = field(default_factory=dict)
    deaths: int = 0

    def run(self) -> Generator[list[Row], None, None]:
        """Yield as ``score_in_workers``."""
        while self.waiting or self.retries or self.workers:
            self._spawn()
            pipes = wait(list(self.workers), TICK_SECONDS)
            if not pipes:
                yield []
            for pipe in pipes:
                assert isinstance(pipe, Connection)
                yield from self._receive(self.workers[pipe])

    def close(self) -> None:
        """Kill the workers that are left; their decoders die with them."""
        for worker in self.workers.values():
            worker.process.kill()
        for worker in self.workers.values():
            worker.process.join()
            worker.pipe.close()
        self.workers.clear()

    def _spawn(self) -> None:
        """Start workers while videos wait that no starting worker will take, and there is room for them."""
        starting = sum(not worker.ready and not worker.retried for worker in self.workers.values())
        while len(self.workers) < self.size and (self.retries or len(self.waiting) > starting):
            retried = self.retries.popleft() if self.retries else None
            starting += not retried
            pipe, other = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            process = context.Process(
                target=work, args=(other, self.models, self.options), name="sfavivit-score", daemon=True
            )
            with _signals_blocked():
                process.start()
            other.close()
            self.workers[pipe] = _Worker(process, pipe, retried)

    def _receive(self, worker: _Worker) -> Generator[list[Row], None, None]:
        """Handle one message of a worker: None when it is ready, rows, an error, or the end of its pipe."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._reap(worker)
            return
        if isinstance(message, WorkerDiedError):
            worker.reported = str(message)
        elif isinstance(message, SfaVivitError):
            raise message
        elif message is None:
            worker.ready = True
            for _ in range(MAX_IN_FLIGHT):
                self._send_next(worker)
        else:
            self.deaths = 0
            worker.in_flight.popleft()
            yield message
            self._send_next(worker)

    def _send_next(self, worker: _Worker) -> None:
        if worker.ended:
            return
        if worker.retried:
            worker.send(None if worker.in_flight else worker.retried)
        else:
            worker.send(self.waiting.popleft() if self.waiting else None)

    def _reap(self, worker: _Worker) -> Generator[list[Row], None, None]:
        """Remove a worker that has ended; the videos it had are tried again, or become errors."""
        del self.workers[worker.pipe]
        worker.pipe.close()
        reason = worker.exit_reason()
        if not worker.ready:
            raise EngineError(
                f"a worker ended while it loaded the models: {reason}; if memory is short, use fewer workers"
            )
        if not worker.in_flight:
            return
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            raise EngineError(
                f"{self.deaths} workers ended one after another, the last by {reason}; if memory is short, "
                "use fewer workers"
            )
        if worker.retried:
            error = WorkerDiedError(
                f"{masked_url(worker.retried.video)!r}: ended two workers, the second by {reason}"
            )
            yield self.builder.error(worker.retried, error)
        else:
            self.retries += worker.in_flight


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Context for starting processes that never get Ctrl-C or SIGTERM: the parent handles these."""
    resource_tracker.ensure_running()  # a process of multiprocessing, whose start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(pipe: Connection, models: ModelLocation, options: ScoreOptions) -> None:
    """Run a worker process: score the videos that come through ``pipe`` until None comes."""
    _die_with_parent()
    try:
        recognizer = models.load()
        options.classify.resolve(recognizer.manifest)
        pipe.send(None)
        for rows in score_items(recognizer, iter(pipe.recv, None), options):
            pipe.send(rows)
    except (EOFError, ConnectionError):  # the parent has gone
        return
    except SfaVivitError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(WorkerDiedError(f"internal error: {error_line(error)}"))


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent.pid:
        os._exit(1)
