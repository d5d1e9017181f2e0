"""Answers to a video that is still arriving, as bytes of a file or as frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing

from serving.job import Job
from serving.uploads import NAME
from sfavivit.errors import UsageError, VideoError, VideoLimitError
from sfavivit.features.extractor import FeatureChunk, FeatureExtractor
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
    """Yield the answers to a video file: feeds the decoder and reads from it at the same time.

    ``interval``: seconds of video between provisional answers (None: until the first window is full).
    Raises the error of whichever side fails.
    """
    windows = _Windows(session, query, interval)
    errors: list[Exception] = []

    def answers() -> Generator[pb.WindowResult, None, None]:
        for chunk in job.features(pipe.source, query):
            yield from windows.add_features(chunk)
        yield from windows.finish()

    async def feed() -> None:
        """Write until the end of the bytes, or until the decoder wants no more."""
        try:
            async for data in chunks:
                if not await job.run(pipe.write, data):
                    return
            await job.run(pipe.finish)
        except Exception as error:
            errors.append(error)
            await job.run(pipe.end)

    with VideoPipe(NAME) as pipe:
        job.on_cancel(pipe.close)
        feeding = asyncio.create_task(feed())
        try:
            async with aclosing(job.iterate(answers())) as results:
                async for window in results:
                    yield window
        except VideoError:
            if errors:  # what was wrong with the bytes explains why there were no frames
                raise errors[0] from None
            raise
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
        if errors:
            raise errors[0]


async def answer_frames(
    job: Job, session: Session, query: Query, chunks: AsyncIterator[pb.FrameChunk], interval: float | None
) -> AsyncGenerator[pb.WindowResult, None]:
    """Yield the answers to raw frames. ``interval``: as for ``answer_bytes``.

    Raises:
        UsageError: the query selects a time range, which only a file has.
        InvalidInputError: frames whose shape is not the model's.
        VideoLimitError: the video is longer than the service accepts.
    """
    if query.start_seconds or query.end_seconds is not None:
        raise UsageError("start_offset and end_offset are for video files; send only the frames that count")
    windows, extractor = _Windows(session, query, interval), FeatureExtractor(job.model)
    frames_sent, fps = 0, job.model.manifest.sampling.fps
    chunk_frames = job.model.chunk_frames

    def push(frames: Frames) -> list[pb.WindowResult]:
        """Make one engine call at a time, so that other streams get slots in between."""
        answers: list[pb.WindowResult] = []
        for at in range(0, len(frames), chunk_frames):
            for chunk in extractor.push(frames[at : at + chunk_frames]):
                answers += windows.add_features(chunk)
            job.engine.release()
        return answers

    def finish() -> list[pb.WindowResult]:
        answers = [answer for chunk in extractor.finish() for answer in windows.add_features(chunk)]
        return [*answers, *windows.finish()]

    job.start_clock()
    async for message in chunks:
        frames = frames_of(message)
        for window in await job.infer(push, frames):
            yield window
        frames_sent += len(frames)
        if frames_sent / fps > job.limits.duration_seconds:
            raise VideoLimitError(f"frames: longer than the limit of {job.limits.duration_seconds:g} s")
    for window in await job.infer(finish):
        yield window


class _Windows:
    """Messages for the windows of a session, and for its partial results in between."""

    def __init__(self, session: Session, query: Query, interval: float | None) -> None:
        self._session = session
        self._min_confidence = query.min_confidence
        self._interval = interval
        self._answered_seconds = 0.0

    def add_features(self, chunk: FeatureChunk) -> Iterator[pb.WindowResult]:
        """Yield the windows that ``chunk`` completes, and partial results when they are due."""
        windows = self._session.add_features(chunk)
        partial = self._partial_results()  # before the first answer, with which the slot is given back
        yield from self._messages(windows)
        yield from self._messages(partial, provisional=True)

    def finish(self) -> Iterator[pb.WindowResult]:
        """Yield the windows that were still open."""
        yield from self._messages(self._session.finish())

    def _partial_results(self) -> list[WindowScores]:
        if self._interval is None:
            return self._session.partial_results(before_first_window=True)
        if self._session.duration_seconds - self._answered_seconds < self._interval:
            return []
        self._answered_seconds = self._session.duration_seconds
        return self._session.partial_results()

    def _messages(
        self, windows: list[WindowScores], *, provisional: bool = False
    ) -> Iterator[pb.WindowResult]:
        for scores in windows:
            yield window_message(scores, provisional=provisional, min_confidence=self._min_confidence)
