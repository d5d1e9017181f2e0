"""Order, cancellation and sharing of engine slots."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from serving.scheduler import EngineScheduler, ScheduledEngine
from sfavivit.errors import CancelledRequestError
from sfavivit.types import Features, Frames, Logits
from tests.waiting import eventually


def test_the_scheduler_is_fair_and_counts() -> None:
    """Two streams that always want a slot get it alternately."""
    scheduler, order = EngineScheduler(1), []
    ready = threading.Barrier(2)

    def stream(name: str) -> None:
        ready.wait()
        for _ in range(30):
            with scheduler.slot(threading.Event()):
                order.append(name)
                time.sleep(0.002)

    threads = [threading.Thread(target=stream, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alternating = sum(a != b for a, b in pairwise(order))
    assert alternating >= 50
    assert scheduler.waiting == 0


def test_a_cancelled_call_leaves_the_queue() -> None:
    scheduler, cancelled, seen = EngineScheduler(1), threading.Event(), []

    def wait() -> None:
        with pytest.raises(CancelledRequestError), scheduler.slot(cancelled):
            raise AssertionError("no slot becomes free")
        seen.append(True)

    with scheduler.slot(threading.Event()):
        thread = threading.Thread(target=wait)
        thread.start()
        assert eventually(lambda: scheduler.waiting == 1)
        cancelled.set()
        scheduler.wake()
        thread.join(1)
    assert seen and scheduler.waiting == 0
    with scheduler.slot(threading.Event()):
        pass


class CountingEngine:
    """Engine that answers the number of slots in use while it is called."""

    device = "cpu"

    def __init__(self, scheduler: EngineScheduler) -> None:
        self._scheduler = scheduler

    def spatial(self, frames: Frames) -> Features:
        return np.full((1, 1, 1), self._scheduler.running, np.float32)

    def temporal(self, head: str, features: Features) -> Logits:
        return {"": np.full((1, 1), self._scheduler.running, np.float32)}


def test_a_request_waits_once_for_its_slot_and_holds_it_until_release() -> None:
    scheduler, cancelled = EngineScheduler(1), threading.Event()
    engine = ScheduledEngine(CountingEngine(scheduler), scheduler, cancelled)
    frames, features = np.zeros((1, 2, 1, 1, 3), np.uint8), np.zeros((1, 1, 1), np.float32)
    assert scheduler.running == 0, "no call, no slot"
    assert engine.spatial(frames) == 1
    assert scheduler.running == 1, "kept for the windows"
    assert engine.temporal("default", features)[""] == 1
    cancelled.set()
    with pytest.raises(CancelledRequestError):
        engine.temporal("default", features)
    engine.release()
    assert scheduler.running == scheduler.waiting == 0
    engine.release()
    assert scheduler.running == 0, "a second release gives nothing back"
    cancelled.clear()
    assert engine.spatial(frames) == 1
    engine.release()
    assert scheduler.running == 0
    assert set(engine.timer.seconds) == {"queue", "spatial", "temporal"}
