"""FIFO scheduler that bounds concurrent engine calls.

A stream asks for its next slot only after it has given back the last one, so streams take turns chunk by
chunk, and none waits for the whole video of another.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sfavivit.engines.base import Engine, Features, Frames, Logits
from sfavivit.errors import CancelledRequestError


class StageTimer:
    """Seconds spent in each stage of a request: ``with timer.measure("decode"): ...``."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


class EngineScheduler:
    """Fair semaphore: at most ``slots`` engine calls run at once, and waiting calls are served in order.

    ``running``: slots in use.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        # One condition for each waiting call: a free slot wakes the first in the queue and no other thread.
        self._queue: deque[threading.Condition] = deque()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Number of calls in the queue."""
        return len(self._queue)

    @contextmanager
    def slot(self, cancelled: threading.Event) -> Iterator[None]:
        """Wait for a slot and hold it inside the block.

        Raises:
            CancelledRequestError: ``cancelled`` was set (call ``wake`` after setting it) while waiting.
        """
        with self._lock:
            place = threading.Condition(self._lock)
            self._queue.append(place)
            try:
                while not (cancelled.is_set() or (self._has_free_slot and self._queue[0] is place)):
                    place.wait()
                if cancelled.is_set():
                    raise CancelledRequestError("the request was cancelled")
                self.running += 1
            finally:
                self._queue.remove(place)
                self._notify_first()
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1
                self._notify_first()

    def wake(self) -> None:
        """Let every waiting call look at its ``cancelled`` event again."""
        with self._lock:
            for place in self._queue:
                place.notify()

    @property
    def _has_free_slot(self) -> bool:
        return self.running < self._slots

    def _notify_first(self) -> None:
        if self._queue and self._has_free_slot:
            self._queue[0].notify()


class ScheduledEngine:
    """Engine of one request: every call waits for a slot, and its stages are timed.

    ``timer`` holds the stages ``queue`` (waiting for slots), ``spatial`` and ``temporal``.
    """

    def __init__(self, engine: Engine, scheduler: EngineScheduler, cancelled: threading.Event) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._cancelled = cancelled
        self._shared: ExitStack | None = None
        self._holds_slot = False
        self.timer = StageTimer()

    @contextmanager
    def shared_slot(self) -> Iterator[None]:
        """Let the calls in the block share one slot: the first call waits for it, the end gives it back.

        A chunk and the windows that it completes then wait once, not once each. For one thread at a time.
        """
        with ExitStack() as shared:
            self._shared = shared
            try:
                yield
            finally:
                self._shared, self._holds_slot = None, False

    def spatial(self, frames: Frames) -> Features:
        with self._slot(), self.timer.measure("spatial"):
            return self._engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        with self._slot(), self.timer.measure("temporal"):
            return self._engine.temporal(head, features)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self._holds_slot:
            if self._cancelled.is_set():
                raise CancelledRequestError("the request was cancelled")
            yield
            return
        with ExitStack() as own:
            with self.timer.measure("queue"):
                (self._shared or own).enter_context(self._scheduler.slot(self._cancelled))
            self._holds_slot = self._shared is not None
            yield
