"""The one fair door in front of the engine: streams go through it chunk by chunk, in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sfavivit.engines.base import Engine
from sfavivit.errors import CancelledRequestError
from sfavivit.types import Features, Frames, Logits


class _Ticket:
    """A place in line: an event of its own, so that a turn wakes nobody else."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted = False


class EngineGate:
    """Lets ``slots`` engine calls through at once, first come, first served.

    A stream asks for its next turn only after its last one, so that streams take turns by themselves.
    ``running``: turns that are taken.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._line: deque[_Ticket] = deque()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._line)

    @contextmanager
    def turn(self, cancelled: threading.Event) -> Iterator[None]:
        """Wait for a turn, and hold it.

        Raises:
            CancelledRequestError: ``cancelled`` was set, and ``wake`` called, before it came.
        """
        self._enter(cancelled)
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def wake(self) -> None:
        """Let everybody who waits look at their ``cancelled`` again."""
        with self._lock:
            for ticket in self._line:
                ticket.event.set()

    def _enter(self, cancelled: threading.Event) -> None:
        ticket = _Ticket()
        with self._lock:
            if self.running < self._slots and not cancelled.is_set():
                self.running += 1
                return
            self._line.append(ticket)
        while not ticket.granted or cancelled.is_set():
            if cancelled.is_set():
                self._give_up(ticket)
                raise CancelledRequestError("the request was cancelled")
            ticket.event.wait()
            ticket.event.clear()

    def _give_up(self, ticket: _Ticket) -> None:
        with self._lock:
            if ticket.granted:
                self._pass_on()
            else:
                self._line.remove(ticket)

    def _pass_on(self) -> None:
        """A turn goes to the first in line, if there is one."""
        if self._line:
            first = self._line.popleft()
            first.granted = True
            first.event.set()
        else:
            self.running -= 1


class GatedEngine:
    """The engine as one request sees it: behind the gate, with clocks. See ``engines.base.Engine``."""

    def __init__(self, engine: Engine, gate: EngineGate, cancelled: threading.Event) -> None:
        self._engine = engine
        self._gate = gate
        self._cancelled = cancelled
        self._held: ExitStack | None = None
        self._has_turn = False
        self.queue_seconds = 0.0
        self.spatial_seconds = 0.0
        self.temporal_seconds = 0.0

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """Calls made in here share a turn: the first waits for it, and it is given back at the end.

        A chunk and the windows it completes are then one wait, not one each. For one thread at a time.
        """
        with ExitStack() as held:
            self._held = held
            try:
                yield
            finally:
                self._held, self._has_turn = None, False

    def spatial(self, frames: Frames) -> Features:
        with self._turn():
            started = time.perf_counter()
            features = self._engine.spatial(frames)
            self.spatial_seconds += time.perf_counter() - started
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        with self._turn():
            started = time.perf_counter()
            logits = self._engine.temporal(head, features)
            self.temporal_seconds += time.perf_counter() - started
        return logits

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._has_turn:
            if self._cancelled.is_set():
                raise CancelledRequestError("the request was cancelled")
            yield
            return
        started = time.perf_counter()
        with ExitStack() as stack:
            (self._held or stack).enter_context(self._gate.turn(self._cancelled))
            self._has_turn = self._held is not None
            self.queue_seconds += time.perf_counter() - started
            yield
