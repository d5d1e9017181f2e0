"""Answers while a video is still arriving, as bytes of a file or as frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from serving.job import Job
from serving.uploads import NAME
from sfavivit.errors import UsageError, VideoError, VideoLimitError
from sfavivit.inference.results import WindowScores
from sfavivit.inference.streaming import Session
from sfavivit.protocol.answers import Query
from sfavivit.protocol.messages import frames_of, window_message
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.types import Frames
from sfavivit.video.pipe import VideoPipe


async def answer_bytes(
    job: Job, session: Session, query: Query, chunks: AsyncIterator[bytes], interval: float | None
) -> AsyncGenerator[pb.WindowResult, None]:
    """Feeds the decoder and reads from it at the same time. Raises what either side finds wrong."""
    answers = _Answers(job, session, query, interval)

    def windows() -> Iterator[pb.WindowResult]:
        for frames in job.frames(pipe.source, query):
            yield from answers.push(frames)
        yield from answers.finish()

    with VideoPipe(NAME) as pipe:
        job.on_cancel(pipe.close)
        feed = _Feed(job, pipe)
        feeding = asyncio.create_task(feed.run(chunks))
        try:
            async with aclosing(job.iterate(windows())) as results:
                async for window in results:
                    yield window
        except VideoError:
            if feed.error:  # what was wrong with the bytes explains why there were no frames
                raise feed.error from None
            raise
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
        if feed.error:
            raise feed.error


class _Feed:
    """The bytes of a call on their way to the decoder, and what was wrong with them."""

    def __init__(self, job: Job, pipe: VideoPipe) -> None:
        self._job = job
        self._pipe = pipe
        self.error: Exception | None = None

    async def run(self, chunks: AsyncIterator[bytes]) -> None:
        """Until the end of the bytes, or until the decoder wants no more."""
        try:
            async for data in chunks:
                if not await self._job.run(self._pipe.write, data):
                    return
            await self._job.run(self._pipe.finish)
        except Exception as error:
            self.error = error
            await self._job.run(self._pipe.end)


async def answer_frames(
    job: Job, session: Session, query: Query, chunks: AsyncIterator[pb.FrameChunk], interval: float | None
) -> AsyncGenerator[pb.WindowResult, None]:
    """Answers to raw frames.

    Raises:
        UsageError: a part of a video was asked for, which only a file has.
        InvalidInputError: frames of another form than the model's.
        VideoLimitError: a longer video than the service takes.
    """
    if query.start_seconds or query.end_seconds is not None:
        raise UsageError("start_offset and end_offset are for video files; send only the frames that count")
    answers = _Answers(job, session, query, interval)
    job.start_clock()
    async for chunk in chunks:
        for window in await job.run(lambda frames: list(answers.push(frames)), frames_of(chunk)):
            yield window
        if session.seconds > job.limits.duration_seconds:
            raise VideoLimitError(f"frames: longer than the limit of {job.limits.duration_seconds:g} s")
    for window in await job.run(lambda: list(answers.finish())):
        yield window


class _Answers:
    """What a session answers, and what it says provisionally in between."""

    def __init__(self, job: Job, session: Session, query: Query, interval: float | None) -> None:
        self._chunk_frames = job.recognizer.model.chunk_frames
        self._engine = job.engine
        self._session = session
        self._min_confidence = query.min_confidence
        self._interval = interval
        self._answered_seconds = 0.0

    def push(self, frames: Frames) -> Iterator[pb.WindowResult]:
        """Answers of the windows that ``frames`` complete, or provisional ones when it is time for them."""
        for at in range(0, len(frames), self._chunk_frames):
            yield from self._push(frames[at : at + self._chunk_frames])

    def _push(self, frames: Frames) -> Iterator[pb.WindowResult]:
        """As ``push``, for no more than the frames of one engine call."""
        with self._engine.one_turn():
            tubelets = self._session.tubelets
            windows = self._session.push(frames)
            provisional = self._provisional() if self._session.tubelets > tubelets else []
        yield from self._messages(windows, provisional=False)
        yield from self._messages(provisional, provisional=True)

    def _provisional(self) -> list[WindowScores]:
        """What is to be said before the next window."""
        if self._interval is None:
            return self._session.provisional(until_first=True)
        if self._session.seconds - self._answered_seconds < self._interval:
            return []
        self._answered_seconds = self._session.seconds
        return self._session.provisional()

    def finish(self) -> Iterator[pb.WindowResult]:
        """Answers of the windows that were still open."""
        with self._engine.one_turn():
            windows = self._session.finish()
        yield from self._messages(windows, provisional=False)

    def _messages(self, windows: list[WindowScores], *, provisional: bool) -> Iterator[pb.WindowResult]:
        for scores in windows:
            yield window_message(scores, provisional=provisional, min_confidence=self._min_confidence)
