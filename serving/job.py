"""The work of one request: blocking, in threads, and over within a second once it is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from serving.gate import EngineGate, GatedEngine
from serving.models import Models, RemoteEngine
from sfavivit.errors import CancelledRequestError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.results import Timings
from sfavivit.inference.streaming import Session
from sfavivit.protocol.answers import Query
from sfavivit.types import Frames
from sfavivit.video.reader import Limits, VideoReader, decoded_ahead
from sfavivit.video.source import Source, VideoSegment

Result = TypeVar("Result")
_END = object()


class Job:
    """One request's share of the service: threads of ``pool``, turns at ``gate``, a decoder of its own."""

    def __init__(self, models: Models, gate: EngineGate, pool: ThreadPoolExecutor, limits: Limits) -> None:
        self._cancelled = threading.Event()
        self._gate = gate
        self._pool = pool
        self.limits = limits
        self._closers: list[Callable[[], None]] = []
        self.models = models
        engine = models.engine
        if isinstance(engine, RemoteEngine):
            engine = engine.for_one()
            self.on_cancel(engine.cancel)
        self.engine = GatedEngine(engine, gate, self._cancelled)
        self.recognizer = models.recognizer(self.engine)
        self.decode_seconds = 0.0
        self.warning: str | None = None
        self._started: float | None = None

    def cancel(self) -> None:
        """Stop the decoder, drop the chunk that waits for the engine. From any thread."""
        self._cancelled.set()
        self._gate.wake()
        for close in list(self._closers):
            close()

    def on_cancel(self, close: Callable[[], None]) -> None:
        """Have ``close`` called by ``cancel``; at once when that was before."""
        self._closers.append(close)
        if self._cancelled.is_set():
            close()

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """The result of blocking work. When the caller is cancelled so is the job, and its end awaited."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future = loop.run_in_executor(self._pool, context.run, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await loop.run_in_executor(None, self.cancel)
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # seen, and of no interest
            raise

    async def iterate(self, items: Iterator[Result]) -> AsyncGenerator[Result, None]:
        """The items of a blocking iterator, each made when the last one has been taken."""
        try:
            while (item := await self.run(next, items, _END)) is not _END:
                yield item
        finally:
            if close := getattr(items, "close", None):
                await self.run(close)

    def session(self, query: Query) -> Session:
        """A session for ``query``. Raises what is wrong with it."""
        return Session(
            self.recognizer.model,
            ClassifyOptions(
                heads=tuple(query.heads or None), stride_seconds=query.stride_seconds, top_k=query.top_k
            ),
            start_seconds=query.start_seconds,
        )

    def frames(self, source: Source, query: Query) -> Iterator[Frames]:
        """Chunks of frames of a video, decoded ahead.

        Raises:
            VideoError: no frames.
            CancelledRequestError: ``cancel`` was called.
        """
        self.start_clock()
        reader = VideoReader(
            VideoSegment(source, start_seconds=query.start_seconds, end_seconds=query.end_seconds),
            self.recognizer.manifest.sampling,
            chunk_frames=self.recognizer.model.chunk_frames,
            limits=self.limits,
        )
        with reader:
            self.on_cancel(reader.close)
            try:
                with closing(decoded_ahead(reader)) as chunks:
                    yield from chunks
            finally:
                self.decode_seconds = reader.decode_seconds
                self._closers.remove(reader.close)
            if self._cancelled.is_set():
                raise CancelledRequestError("the request was cancelled")
            self.warning = reader.damage

    def start_clock(self) -> None:
        """The total time starts when the work does."""
        self._started = self._started or time.perf_counter()

    def timings(self) -> Timings:
        """So far."""
        total = time.perf_counter() - self._started if self._started else 0.0
        engine = self.engine
        return Timings(self.decode_seconds, engine.spatial_seconds, engine.temporal_seconds, total)
