"""Blocking work of one request, in threads; it ends within a second of its cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from serving.models import RemoteEngine
from serving.scheduler import EngineScheduler, ScheduledEngine
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import CancelledRequestError
from sfavivit.features.extractor import FeatureChunk
from sfavivit.features.reader import FeatureReader
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.results import Timings
from sfavivit.inference.streaming import Session
from sfavivit.protocol.answers import Query
from sfavivit.video.limits import Limits
from sfavivit.video.source import Source

Result = TypeVar("Result")
_END = object()


class Job:
    """Share of the service that one request uses: threads of ``pool``, engine slots, a decoder of its own.

    ``frames_used``: frames decoded so far. ``warning``: what was irregular in the
    video.
    """

    def __init__(
        self, model: LoadedModel, scheduler: EngineScheduler, pool: ThreadPoolExecutor, limits: Limits
    ) -> None:
        self._cancelled = threading.Event()
        self._scheduler = scheduler
        self._pool = pool
        self.limits = limits
        self._closers: list[Callable[[], None]] = []
        engine = model.engine
        if isinstance(engine, RemoteEngine):
            engine = engine.scoped()
            self.on_cancel(engine.cancel)
        self.engine = ScheduledEngine(engine, scheduler, self._cancelled)
        self.model = model.with_engine(self.engine)
        self.frames_used = 0
        self.warning: str | None = None
        self._start: float | None = None

    def cancel(self) -> None:
        """Stop the decoder and drop the chunk that waits for the engine. Callable from any thread."""
        self._cancelled.set()
        self._scheduler.wake()
        for close in list(self._closers):
            close()

    def close(self) -> None:
        """Cancel what still runs, and give back the engine's slot. All work has ended by then."""
        self.cancel()
        self.engine.release()

    def on_cancel(self, close: Callable[[], None]) -> None:
        """Have ``cancel`` call ``close``; call it at once if the job is already cancelled."""
        self._closers.append(close)
        if self._cancelled.is_set():
            close()

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Return the result of blocking work in the pool.

        When the caller is cancelled, the job is cancelled too, and the end of the work awaited.
        """
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future = loop.run_in_executor(self._pool, context.run, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ended = asyncio.gather(loop.run_in_executor(None, self.cancel), asyncio.wait([future]))
            while not ended.done():  # also when cancelled again, by the end of the service
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ended)
            if not future.cancelled():
                future.exception()  # retrieved, so that asyncio does not log it
            raise

    async def infer(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run work that calls the engine, and give back the slot when it ends, however it does."""

        def work_in_slot() -> Result:
            try:
                return work(*arguments)
            finally:
                self.engine.release()

        return await self.run(work_in_slot)

    async def iterate(self, items: Generator[Result, None, None]) -> AsyncGenerator[Result, None]:
        """Yield the items of a blocking generator, each made when the one before has been consumed.

        No slot is held while an item is consumed, which may wait for a client.
        """
        try:
            while (item := await self.infer(next, items, _END)) is not _END:
                yield item
        finally:
            await self.run(items.close)

    def session(self, query: Query) -> Session:
        """Return a session for ``query``.

        Raises:
            HeadNotFoundError, UsageError: the query does not fit the model.
        """
        options = ClassifyOptions(tuple(query.heads), query.stride_seconds, query.top_k)
        return Session(self.model, options, query.start_seconds)

    def features(self, source: Source, query: Query) -> Generator[FeatureChunk, None, None]:
        """Yield the features of a video, decoded ahead. The slot is held at each of them, and not in between.

        Raises:
            VideoError: the video gives no frames.
            CancelledRequestError: ``cancel`` was called.
        """
        self.start_clock()
        segment = query.segment(source)
        with FeatureReader(self.model, segment, self.limits) as reader:
            self.on_cancel(reader.close)
            try:
                for chunk in reader:
                    yield chunk
                    self.engine.release()  # the next chunk may still have to be decoded
            finally:
                self.engine.release()  # the end of the decoder is waited for
                self.engine.timer.seconds["decode"] = reader.decode_seconds
                self.frames_used = reader.frames_used
                self._closers.remove(reader.close)
            if self._cancelled.is_set():
                raise CancelledRequestError("the request was cancelled")
            self.warning = reader.warning

    def start_clock(self) -> None:
        """Start the total time: with the work, not with the wait for the upload."""
        self._start = self._start or time.perf_counter()

    def timings(self) -> Timings:
        """Return the time of each stage so far."""
        seconds = self.engine.timer.seconds
        total = time.perf_counter() - self._start if self._start else 0.0
        device = self.engine.device
        return Timings(seconds["decode"], seconds["spatial"], seconds["temporal"], total, device)

    @property
    def queue_seconds(self) -> float:
        """Time spent waiting for engine slots so far."""
        return self.engine.timer.seconds["queue"]
