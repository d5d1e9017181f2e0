"""FIFO scheduler that bounds concurrent engine calls.

A stream asks for its next slot only after it has given back the last one, so streams take turns chunk by
chunk, and none waits for the whole video of another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sfavivit.engines.base import Engine
from sfavivit.engines.model import TimedEngine
from sfavivit.errors import CancelledRequestError
from sfavivit.types import Features, Frames, Logits


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


class ScheduledEngine(TimedEngine):
    """Engine of one request: its first call waits for a slot, which it holds until ``release``.

    A chunk and the windows that it completes then wait once, not once each. The slot must be released before
    waiting for anything else, such as a decoder or a client; ``Job`` sees to it. For one thread at a time.
    ``timer`` has one stage more, ``queue``, for the waits.
    """

    def __init__(self, engine: Engine, scheduler: EngineScheduler, cancelled: threading.Event) -> None:
        super().__init__(engine)
        self._scheduler = scheduler
        self._cancelled = cancelled
        self._slot = ExitStack()
        self._holds_slot = False

    def spatial(self, frames: Frames) -> Features:
        self._acquire()
        return super().spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        self._acquire()
        return super().temporal(head, features)

    def release(self) -> None:
        """Give the slot back, if there is one."""
        self._holds_slot = False
        self._slot.close()

    def _acquire(self) -> None:
        if self._cancelled.is_set():
            raise CancelledRequestError("the request was cancelled")
        if not self._holds_slot:
            with self.timer.measure("queue"):
                self._slot.enter_context(self._scheduler.slot(self._cancelled))
            self._holds_slot = True
