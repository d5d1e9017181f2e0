"""The methods of ``VideoRecognition``. What goes wrong in them is raised, and put on the wire elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np

from serving.admission import Admission
from serving.conversation import Conversation
from serving.gate import EngineGate
from serving.job import Job
from serving.metrics import Metrics
from serving.models import ModelSource
from serving.settings import Settings
from serving.streaming import answer_bytes, answer_frames
from serving.tracing import Tracing
from serving.uploads import NAME, Spool, check_upload_size
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.features.extractor import FeatureExtractor
from sfavivit.inference.streaming import Session
from sfavivit.protocol.answers import (
    FrameFormat,
    HeadInfo,
    Query,
    ServedFeatures,
    ServedRecognition,
    ServiceInfo,
)
from sfavivit.protocol.messages import (
    feature_summary_message,
    features_message,
    features_of,
    query_of,
    recognition_message,
    seconds_of,
    served,
    service_info_message,
)
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.repository.manifest import SPATIAL_MODEL
from sfavivit.types import Features
from sfavivit.video.source import check_range


class VideoRecognitionService:
    """See ``video_recognition.proto``."""

    def __init__(self, source: ModelSource, settings: Settings, metrics: Metrics, tracing: Tracing) -> None:
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self.admission = Admission(settings.max_streams, settings.max_waiting)
        self.gate = EngineGate(source.slots)
        # A streaming call feeds its decoder and reads from it at the same time, and may then be cancelled.
        self.pool = ThreadPoolExecutor(3 * settings.max_streams, thread_name_prefix="sfavivit-work")

    async def ListHeads(self, request: pb.ListHeadsRequest, context: Any) -> pb.ListHeadsResponse:
        """What there is to ask."""
        models = self._source.current()
        manifest = models.catalog.manifest
        fps, dims = manifest.sampling.fps, manifest.dimensions
        heads = {
            name: HeadInfo(
                name,
                entry.version,
                models.catalog.labels[name],
                entry.dimensions.max_frames,
                entry.dimensions.max_frames / fps,
            )
            for name, entry in manifest.heads.items()
        }
        frames = FrameFormat(fps, dims.image_size, dims.image_size, dims.tubelet_frames)
        return service_info_message(ServiceInfo(manifest.name, heads, frames, models.digests))

    async def Classify(self, requests: AsyncIterator[Any], context: Any) -> pb.ClassifyResponse:
        """A whole file in, its actions out."""
        async with self._job() as job:
            conversation = self._conversation(requests)
            config = await conversation.config()
            query = query_of(config)
            check_range(query.start_seconds, query.end_seconds)
            session = job.session(query)
            async with self._upload(job, conversation, config.content_size) as spool:
                await job.run(_classify, job, session, spool, query)
            return pb.ClassifyResponse(result=_result(job, session, query))

    async def StreamingClassify(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[pb.StreamingClassifyResponse, None]:
        """A file or frames in, answers out meanwhile."""
        async with self._job() as job:
            conversation = self._conversation(requests)
            config: pb.StreamingClassifyConfig = await conversation.config()
            query = query_of(config.recognition)
            check_range(query.start_seconds, query.end_seconds)
            interval = None
            if config.HasField("provisional_interval"):
                interval = seconds_of(config.provisional_interval)
                if not interval > 0:
                    raise UsageError(f"provisional_interval must be more than 0 s, got {interval:g}")
            session = job.session(query)
            content = conversation.content("content", "frames")
            kind, first = await anext(content, None) or ("content", b"")
            answer = answer_bytes if kind == "content" else answer_frames
            chunks = self._counted(first, content)
            async with aclosing(answer(job, session, query, chunks, interval)) as answers:
                async for window in answers:
                    yield pb.StreamingClassifyResponse(window=window)
            yield pb.StreamingClassifyResponse(summary=_result(job, session, query))

    async def ExtractFeatures(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[pb.ExtractFeaturesResponse, None]:
        """A whole file in, its features out."""
        async with self._job() as job:
            conversation = self._conversation(requests)
            config: pb.ExtractFeaturesConfig = await conversation.config()
            end = seconds_of(config.end_offset) if config.HasField("end_offset") else None
            query = Query(start_seconds=seconds_of(config.start_offset), end_seconds=end)
            check_range(query.start_seconds, query.end_seconds)
            counter = _FrameCounter()
            async with self._upload(job, conversation, config.content_size) as spool:
                features = _features(job, spool, query, counter)
                async with aclosing(job.iterate(features)) as chunks:
                    async for chunk in chunks:
                        yield pb.ExtractFeaturesResponse(features=features_message(chunk))
            fps = job.models.catalog.manifest.sampling.fps
            summary = ServedFeatures(
                np.zeros((0, 0), np.float32),
                counter.frames,
                query.start_seconds,
                counter.frames / fps,
                job.timings(),
                job.engine.queue_seconds,
                job.models.digests,
                job.warning,
            )
            yield pb.ExtractFeaturesResponse(summary=feature_summary_message(summary))

    async def ScoreFeatures(self, requests: AsyncIterator[Any], context: Any) -> pb.ScoreFeaturesResponse:
        """Features in, actions out."""
        async with self._job() as job:
            conversation = self._conversation(requests)
            config: pb.ScoreFeaturesConfig = await conversation.config()
            query = query_of(config.recognition)
            check_range(query.start_seconds, None)
            digest = job.models.digests[SPATIAL_MODEL]
            if config.spatial_sha256 not in ("", digest):
                raise InvalidInputError(
                    f"the features are of a spatial model with digest {config.spatial_sha256[:12]!r}, this "
                    f"service has {digest[:12]!r}; extract them again"
                )
            session = job.session(query)
            async for _, chunk in conversation.content("features"):
                job.start_clock()
                await job.run(session.push_features, features_of(chunk))
            if config.frames_used:
                session.trim(config.frames_used)
            await job.run(session.finish)
            return pb.ScoreFeaturesResponse(result=_result(job, session, query))

    @asynccontextmanager
    async def _job(self) -> AsyncIterator[Job]:
        """A place among the running requests, and a job that ends with it."""
        async with self.admission.slot():
            job = Job(self._source.current(), self.gate, self.pool, self._settings.limits)
            try:
                yield job
            finally:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, job.cancel))
                for observer in (self._metrics, self._tracing):
                    observer.stages(job.timings(), job.engine.queue_seconds)

    def _conversation(self, requests: AsyncIterator[Any]) -> Conversation:
        settings = self._settings
        return Conversation(requests, settings.idle_seconds, settings.min_bytes_per_second)

    @asynccontextmanager
    async def _upload(self, job: Job, conversation: Conversation, declared_size: int) -> AsyncIterator[Spool]:
        """The whole of an upload, on disk. Raises when it is too large, or not of the size declared."""
        limit = self._settings.max_upload_bytes
        if declared_size < 0:
            raise InvalidInputError(f"content_size must be at least 0, got {declared_size}")
        check_upload_size(declared_size, limit)
        size = 0
        with Spool(self._settings.spool, limit) as spool:
            async for _, data in conversation.content("content"):
                size += len(data)
                if declared_size and size > declared_size:
                    raise InvalidInputError(
                        f"{NAME}: {size} bytes or more came, but content_size is {declared_size}"
                    )
                self._metrics.received_bytes.inc(len(data))
                await job.run(spool.write, data)
            if declared_size and size != declared_size:
                raise InvalidInputError(f"{NAME}: {size} bytes came, but content_size is {declared_size}")
            yield spool

    async def _counted(self, first: Any, content: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[Any]:
        """The content of a streaming call, which is stored nowhere: its duration is what has a limit."""

        def count(chunk: Any) -> Any:
            self._metrics.received_bytes.inc(len(chunk if isinstance(chunk, bytes) else chunk.data))
            return chunk

        yield count(first)
        async for _, chunk in content:
            yield count(chunk)


class _FrameCounter:
    frames = 0


def _classify(job: Job, session: Session, spool: Spool, query: Query) -> None:
    for frames in job.frames(spool.source(), query):
        with job.engine.one_turn():
            session.push(frames)
    with job.engine.one_turn():
        session.finish()


def _features(job: Job, spool: Spool, query: Query, counter: _FrameCounter) -> Iterator[Features]:
    """Features of a video in chunks that fit a message."""
    extractor = FeatureExtractor(job.recognizer)
    for frames in job.frames(spool.source(), query):
        counter.frames += len(frames)
        yield from extractor.push(frames)
    yield from extractor.finish()


def _result(job: Job, session: Session, query: Query) -> pb.RecognitionResult:
    answer = session.recognition(NAME, job.timings(), job.warning)
    recognition: ServedRecognition = served(answer, job.engine.queue_seconds, job.models.digests)
    return recognition_message(recognition, query.min_confidence)
