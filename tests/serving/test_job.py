"""Engine slots of a request: none is held while it waits for a client or a decoder, whatever fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.job import Job
from serving.scheduler import EngineScheduler
from serving.streaming import answer_bytes, answer_frames
from sfavivit import Recognizer
from sfavivit.engines.base import Engine
from sfavivit.errors import CancelledRequestError, EngineError
from sfavivit.features.reader import FeatureReader
from sfavivit.protocol.answers import Query
from sfavivit.protocol.messages import frames_message
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.limits import Limits
from tests.conftest import random_frames
from tests.serving.support import arriving, pieces

QUERY = Query(("default",))
SPATIAL, TEMPORAL = "spatial", "temporal"


class FailingEngine:
    """A real engine whose second call of one kind calls ``fail``."""

    def __init__(self, engine: Engine, kind: str, fail: Callable[[], None]) -> None:
        self._engine, self._kind, self._fail = engine, kind, fail
        self.device = engine.device
        self._calls = 0

    def spatial(self, frames: Frames) -> Features:
        self._count(SPATIAL)
        return self._engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        self._count(TEMPORAL)
        return self._engine.temporal(head, features)

    def _count(self, kind: str) -> None:
        self._calls += kind == self._kind
        if self._calls == 2 and kind == self._kind:
            self._fail()


@pytest.fixture
def scheduler() -> EngineScheduler:
    return EngineScheduler(1)


@pytest.fixture
def job_of(local: Recognizer, scheduler: EngineScheduler) -> Iterator[Callable[[Engine], Job]]:
    """A job of the local model on an engine."""
    with ThreadPoolExecutor(3) as pool:
        yield lambda engine: Job(local.model.with_engine(engine), scheduler, pool, Limits())


@pytest.fixture
def held(scheduler: EngineScheduler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slots in use each time that a reader begins to wait for the end of its decoder."""
    held, close = [], FeatureReader.close

    def noted_close(reader: FeatureReader) -> None:
        held.append(scheduler.running)
        close(reader)

    monkeypatch.setattr(FeatureReader, "close", noted_close)
    return held


@pytest.mark.parametrize("kind", [SPATIAL, TEMPORAL])
@pytest.mark.parametrize("cancelled", [False, True], ids=["error", "cancelled"])
def test_a_failed_request_gives_its_slot_back_before_it_waits_for_its_decoder(
    local: Recognizer,
    scheduler: EngineScheduler,
    job_of: Callable[[Engine], Job],
    videos: list[Path],
    held: list[int],
    kind: str,
    cancelled: bool,
) -> None:
    def fail() -> None:
        if not cancelled:
            raise EngineError("the engine is broken")
        job._cancelled.set()

    job = job_of(FailingEngine(local.model.engine, kind, fail))

    async def answer() -> None:
        async for _ in answer_bytes(job, job.session(QUERY), QUERY, arriving(pieces(videos[4])), None):
            assert scheduler.running == 0

    with pytest.raises(CancelledRequestError if cancelled else EngineError):
        asyncio.run(answer())
    assert held and not any(held)
    assert scheduler.running == 0, "before the job is closed"


@pytest.mark.parametrize("kind", ["content", "frames"])
def test_no_slot_is_held_while_a_client_reads(
    local: Recognizer,
    scheduler: EngineScheduler,
    job_of: Callable[[Engine], Job],
    videos: list[Path],
    kind: str,
) -> None:
    """Each answer may wait for the client as long as it likes."""
    job = job_of(local.model.engine)
    session = job.session(QUERY)

    async def answer() -> int:
        if kind == "content":
            answers = answer_bytes(job, session, QUERY, arriving(pieces(videos[0])), 0.5)
        else:
            messages = [frames_message(random_frames(count)) for count in (1, 40, 7)]
            answers = answer_frames(job, session, QUERY, arriving(messages), 0.5)
        count = 0
        async for _ in answers:
            assert scheduler.running == 0
            count += 1
        return count

    assert asyncio.run(answer()) > 3
    assert scheduler.running == 0


def test_a_request_that_is_cancelled_twice_ends_with_its_work(
    local: Recognizer, scheduler: EngineScheduler, job_of: Callable[[Engine], Job], videos: list[Path]
) -> None:
    """By its client and by the end of the service, in the middle of an engine call."""
    called, returned = threading.Event(), threading.Event()

    def stall() -> None:
        called.set()
        returned.wait(10)

    job = job_of(FailingEngine(local.model.engine, SPATIAL, stall))

    async def answer() -> None:
        async for _ in answer_bytes(job, job.session(QUERY), QUERY, arriving(pieces(videos[4])), None):
            pass

    async def main() -> None:
        task = asyncio.create_task(answer())
        await asyncio.to_thread(called.wait, 10)
        for _ in range(2):
            task.cancel()
            assert not (await asyncio.wait([task], timeout=0.2))[0], "its engine call still runs"
        assert scheduler.running == 1
        returned.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scheduler.running == 0

    asyncio.run(main())
