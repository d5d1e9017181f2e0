"""Methods of the gRPC service ``VideoRecognition``; the interceptor turns their errors into statuses."""

# ruff: noqa: N802 - methods are named as in the .proto

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Any

from serving.admission import Admission
from serving.job import Job
from serving.metrics import Metrics
from serving.models import ModelSource
from serving.request_stream import RequestStream
from serving.scheduler import EngineScheduler
from serving.settings import Settings
from serving.streaming import answer_bytes, answer_frames
from serving.tracing import Tracing
from serving.uploads import NAME, Spool
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.features.extractor import FeatureChunk
from sfavivit.inference.streaming import Session
from sfavivit.protocol.answers import FrameFormat, HeadInfo, Query, ServiceInfo
from sfavivit.protocol.messages import (
    feature_summary_message,
    features_message,
    features_of,
    query_of,
    recognition_message,
    seconds_of,
    service_info_message,
)
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.repository.manifest import SPATIAL_MODEL
from sfavivit.types import Features

FILE_OPTIONS = ("end_offset", "content_size", "video_track")  # of RecognitionConfig; not for features


class VideoRecognitionServicer:
    """Implementation of ``VideoRecognition``, whose contract is ``video_recognition.proto``."""

    def __init__(self, source: ModelSource, settings: Settings, metrics: Metrics, tracing: Tracing) -> None:
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self.admission = Admission(settings.max_streams, settings.max_waiting)
        self.scheduler = EngineScheduler(source.slots)
        # Three threads for a streaming call: one feeds its decoder, one reads from it, one may cancel it.
        self.pool = ThreadPoolExecutor(3 * settings.max_streams, thread_name_prefix="sfavivit-work")

    async def ListHeads(self, request: pb.ListHeadsRequest, context: Any) -> pb.ListHeadsResponse:
        """Describe the model, its heads and the frames it takes."""
        model = self._source.current()
        manifest = model.manifest
        fps, dims = manifest.sampling.fps, manifest.dimensions
        heads = {}
        for name, entry in manifest.heads.items():
            window_frames = entry.dimensions.max_frames
            labels = model.labels[name]
            heads[name] = HeadInfo(name, entry.version, labels, window_frames, window_frames / fps)
        frames = FrameFormat(fps, dims.image_size, dims.image_size, dims.tubelet_frames)
        return service_info_message(ServiceInfo(manifest.name, heads, frames, manifest.weights_sha256))

    async def Classify(self, requests: AsyncIterator[Any], context: Any) -> pb.ClassifyResponse:
        """Classify an uploaded video file."""
        async with self._job(requests) as (job, stream):
            config: pb.RecognitionConfig = await stream.config()
            query = query_of(config)
            query.segment(NAME)  # refuses an invalid one
            session = job.session(query)
            async with self._upload(job, stream, config.content_size) as spool:
                await job.infer(_classify, job, session, spool, query)
            return pb.ClassifyResponse(result=_result(job, session, query))

    async def StreamingClassify(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[pb.StreamingClassifyResponse, None]:
        """Classify a file or frames while they arrive."""
        async with self._job(requests) as (job, stream):
            config: pb.StreamingClassifyConfig = await stream.config()
            query = query_of(config.recognition)
            query.segment(NAME)  # refuses an invalid one
            interval = None
            if config.HasField("provisional_interval"):
                interval = seconds_of(config.provisional_interval)
                if not interval > 0:
                    raise UsageError(f"provisional_interval must be more than 0 s, got {interval:g}")
            session = job.session(query)
            kind, chunks = await stream.content("content", "frames")
            answer = answer_bytes if kind == "content" else answer_frames
            async with aclosing(answer(job, session, query, chunks, interval)) as answers:
                async for window in answers:
                    yield pb.StreamingClassifyResponse(window=window)
            yield pb.StreamingClassifyResponse(summary=_result(job, session, query))

    async def ExtractFeatures(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[pb.ExtractFeaturesResponse, None]:
        """Extract the features of an uploaded video file."""
        async with self._job(requests) as (job, stream):
            config: pb.ExtractFeaturesConfig = await stream.config()
            end = seconds_of(config.end_offset) if config.HasField("end_offset") else None
            track = config.video_track if config.HasField("video_track") else None
            start = seconds_of(config.start_offset)
            query = Query(start_seconds=start, end_seconds=end, video_track=track)
            query.segment(NAME)  # refuses an invalid one
            async with (
                self._upload(job, stream, config.content_size) as spool,
                aclosing(job.iterate(_features(job, spool, query))) as chunks,
            ):
                async for chunk in chunks:
                    yield pb.ExtractFeaturesResponse(features=features_message(chunk))
            summary = feature_summary_message(
                frames_used=job.frames_used,
                start_seconds=query.start_seconds,
                duration_seconds=job.frames_used / job.model.manifest.sampling.fps,
                timings=job.timings(),
                queue_seconds=job.queue_seconds,
                model_digests=job.model.manifest.weights_sha256,
                warning=job.warning,
            )
            yield pb.ExtractFeaturesResponse(summary=summary)

    async def ScoreFeatures(self, requests: AsyncIterator[Any], context: Any) -> pb.ScoreFeaturesResponse:
        """Classify features that were extracted before."""
        async with self._job(requests) as (job, stream):
            config: pb.ScoreFeaturesConfig = await stream.config()
            for option, _ in config.recognition.ListFields():
                if option.name in FILE_OPTIONS:
                    raise InvalidInputError(f"{option.name} does not apply to features; leave it out")
            query = query_of(config.recognition)
            query.segment(NAME)  # refuses an invalid one
            digest = job.model.manifest.weights_sha256[SPATIAL_MODEL]
            if config.spatial_sha256 not in ("", digest):
                raise InvalidInputError(
                    f"the features are of a spatial model with digest {config.spatial_sha256[:12]!r}, this "
                    f"service has {digest[:12]!r}; extract them again"
                )
            session = job.session(query)
            _, chunks = await stream.content("features")
            async for chunk in chunks:
                job.start_clock()
                await job.infer(_score, job, session, features_of(chunk))
            if config.frames_used:
                session.set_frame_count(config.frames_used)
            await job.infer(session.finish)
            return pb.ScoreFeaturesResponse(result=_result(job, session, query))

    @asynccontextmanager
    async def _job(self, requests: AsyncIterator[Any]) -> AsyncIterator[tuple[Job, RequestStream]]:
        """Wait for a slot among the running requests, and yield a job that ends with it, and its messages."""
        async with self.admission.slot():
            job = Job(self._source.current(), self.scheduler, self.pool, self._settings.limits)
            try:
                yield job, RequestStream(requests, self._settings, self._metrics.received_bytes.inc)
            finally:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, job.close))
                for observer in (self._metrics, self._tracing):
                    observer.stages(job.timings(), job.queue_seconds)

    @asynccontextmanager
    async def _upload(self, job: Job, stream: RequestStream, declared_bytes: int) -> AsyncIterator[Spool]:
        """Store the content of an upload on disk, and yield it when all of it has come."""
        with Spool(self._settings.spool, self._settings.max_upload_bytes, declared_bytes) as spool:
            _, chunks = await stream.content("content")
            async for data in chunks:
                await job.run(spool.write, data)
            yield spool


def _classify(job: Job, session: Session, spool: Spool, query: Query) -> None:
    for chunk in job.features(spool.source(), query):
        session.add_features(chunk)
    session.finish()


def _features(job: Job, spool: Spool, query: Query) -> Generator[Features, None, None]:
    """Yield the features of a video in chunks that fit in a message."""
    for chunk in job.features(spool.source(), query):
        yield chunk.features


def _score(job: Job, session: Session, features: Features) -> None:
    frames = len(features) * job.model.manifest.dimensions.tubelet_frames
    session.add_features(FeatureChunk(features, frames))


def _result(job: Job, session: Session, query: Query) -> pb.RecognitionResult:
    return recognition_message(
        session.result(NAME, job.timings(), job.warning),
        queue_seconds=job.queue_seconds,
        model_digests=job.model.manifest.weights_sha256,
        min_confidence=query.min_confidence,
    )
