"""Clients of the video service, for threads and for asyncio, with the same methods.

>>> with VideoRecognitionClient("localhost:50051") as client:
...     answer = client.classify("video.mp4", Query(heads=("default",)))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from sfavivit.arguments import check_fields, checked
from sfavivit.errors import ServiceError, UsageError
from sfavivit.protocol.answers import Query, ServedFeatures, ServedRecognition, ServedWindow, ServiceInfo
from sfavivit.protocol.messages import (
    features_of,
    recognition_of,
    served_features_of,
    service_info_of,
    window_of,
)
from sfavivit.protocol.requests import (
    AsyncRequests,
    Progress,
    Requests,
    VideoFile,
    classify_requests,
    extract_requests,
    score_requests,
    streaming_config,
    streaming_content,
    streaming_requests,
)
from sfavivit.protocol.served_status import ServedStatus
from sfavivit.protocol.status import error_of
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.protocol.v1.video_recognition_pb2_grpc import VideoRecognitionStub
from sfavivit.utils.network import direct_options, proxy_note

DEFAULT_QUERY = Query()

# Notice during a call, however long the service computes, that its machine has vanished. A service that hangs
# gets gRPC's 60 s: an acknowledgement may wait behind an upload. Without calls nothing is sent, since proxies
# and servers of other makes take pings for abuse.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
Chunk = bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Tls:
    """PEM files for TLS.

    ``ca``: authority of the service's certificate (None: the system's). ``certificate``, ``key``: of this
    client, for mutual TLS.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel.

        Raises:
            UsageError: a file cannot be read, or only one of certificate and key is given.
        """
        if (self.certificate is None) != (self.key is None):
            raise UsageError("a client certificate and its key belong together; give both or neither")
        try:
            ca, key, certificate = (
                file.read_bytes() if file else None for file in (self.ca, self.key, self.certificate)
            )
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
        return grpc.ssl_channel_credentials(ca, key, certificate)


class _Client:
    """Base of both clients."""

    @checked
    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        token: str | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        self.address = address
        self._options: dict[str, Any] = {
            "timeout": timeout_seconds,
            "metadata": (("authorization", f"Bearer {token}"),) if token else (),
        }
        self._where = f"{address}{proxy_note(address)}"
        channels = cast(Any, self._channels)
        options = (*KEEPALIVE, *direct_options(address))
        if tls:
            self._channel = channels.secure_channel(address, tls.credentials(), options=options)
        else:
            self._channel = channels.insecure_channel(address, options=options)
        self._stub = cast(Any, VideoRecognitionStub)(self._channel)

    _channels: Any = grpc

    @contextmanager
    def _errors(self, requests: Requests | AsyncRequests | None = None) -> Iterator[None]:
        """Turn errors of gRPC into those of this package; raise an error in making the requests as it is."""
        try:
            yield
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if requests is not None and isinstance(requests.error, Exception):
                raise requests.error from None  # gRPC reports it as a cancellation
            if isinstance(error, asyncio.CancelledError):
                raise
            raise error_of(error, self._where) from None

    def _streamed(self, message: pb.StreamingClassifyResponse) -> ServedWindow | ServedRecognition:
        if message.HasField("summary"):
            return recognition_of(message.summary, "<stream>")
        return window_of(message.window)

    def _features(self, messages: list[pb.ExtractFeaturesResponse]) -> ServedFeatures:
        chunks = [features_of(message.features) for message in messages if message.HasField("features")]
        if not chunks or not messages[-1].HasField("summary"):
            raise ServiceError(f"video service at {self.address} ended without features and a summary")
        return served_features_of(chunks, messages[-1].summary)


class VideoRecognitionClient(_Client):
    """Client for threads. Every method raises the error of the service, or ``ServiceError``.

    An argument of a wrong type is a ``UsageError``, before anything is sent.

    ``address``: HOST:PORT. ``tls``: None for plaintext. ``token``: bearer token. ``timeout_seconds``: of each
    call as a whole.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def list_heads(self) -> ServiceInfo:
        """Return the heads, frame format and models of the service."""
        with self._errors():
            return service_info_of(self._stub.ListHeads(pb.ListHeadsRequest(), **self._options))

    @checked
    def classify(
        self, video: VideoFile, query: Query = DEFAULT_QUERY, *, progress: Progress | None = None
    ) -> ServedRecognition:
        """Upload a video file and return its actions."""
        requests = Requests(classify_requests(video, query, progress))
        with self._errors(requests):
            response = self._stub.Classify(requests, **self._options)
        return recognition_of(response.result, "<bytes>" if isinstance(video, bytes) else str(video))

    @checked
    def stream(
        self,
        chunks: Iterable[Chunk],
        query: Query = DEFAULT_QUERY,
        *,
        provisional_seconds: float | None = None,
    ) -> Iterator[ServedWindow | ServedRecognition]:
        """Stream a video (bytes of a file, or frames) and yield its answers, last that for the whole video.

        ``provisional_seconds``: seconds of video between provisional answers (None: until the first window is
        full). Ending the iteration early cancels the call.
        """
        requests = Requests(streaming_requests(chunks, query, provisional_seconds))
        call = self._stub.StreamingClassify(requests, **self._options)
        try:
            with self._errors(requests):
                for message in call:
                    if message.HasField("summary"):
                        call.code()  # awaits the end: a cancel now would count as cancelled at the service
                    yield self._streamed(message)
        finally:
            call.cancel()

    @checked
    def extract_features(
        self, video: VideoFile, query: Query = DEFAULT_QUERY, *, progress: Progress | None = None
    ) -> ServedFeatures:
        """Upload a video file and return its features in the time range of ``query``."""
        requests = Requests(extract_requests(video, query, progress))
        with self._errors(requests):
            messages = list(self._stub.ExtractFeatures(requests, **self._options))
        return self._features(messages)

    @checked
    def score_features(
        self, features: NDArray[np.float32] | ServedFeatures, query: Query = DEFAULT_QUERY
    ) -> ServedRecognition:
        """Return the actions from features float32 [T, D]."""
        requests = Requests(score_requests(features, query))
        with self._errors(requests):
            response = self._stub.ScoreFeatures(requests, **self._options)
        return recognition_of(response.result, "<features>")


class AsyncVideoRecognitionClient(_Client):
    """Client for asyncio; arguments and methods are those of ``VideoRecognitionClient``."""

    _channels = grpc.aio

    @asynccontextmanager
    async def _served(self, call: Any, requests: Requests | AsyncRequests) -> AsyncIterator[None]:
        """Do as ``_errors`` for a call that streams its requests."""
        status = ServedStatus(call)
        with self._errors(requests):
            try:
                yield
            except grpc.aio.AioRpcError as error:
                raise await status.instead_of(error) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def list_heads(self) -> ServiceInfo:
        """Return the heads, frame format and models of the service."""
        with self._errors():
            return service_info_of(await self._stub.ListHeads(pb.ListHeadsRequest(), **self._options))

    @checked
    async def classify(
        self, video: VideoFile, query: Query = DEFAULT_QUERY, *, progress: Progress | None = None
    ) -> ServedRecognition:
        """Upload a video file and return its actions."""
        requests = Requests(classify_requests(video, query, progress))
        call = self._stub.Classify(requests, **self._options)
        async with self._served(call, requests):
            response = await call
        return recognition_of(response.result, "<bytes>" if isinstance(video, bytes) else str(video))

    @checked
    async def stream(
        self,
        chunks: AsyncIterable[Chunk],
        query: Query = DEFAULT_QUERY,
        *,
        provisional_seconds: float | None = None,
    ) -> AsyncIterator[ServedWindow | ServedRecognition]:
        """Stream a video (bytes of a file, or frames) and yield answers meanwhile, as the other client."""

        async def messages() -> AsyncIterator[pb.StreamingClassifyRequest]:
            yield streaming_config(query, provisional_seconds)
            async for chunk in chunks:
                for message in streaming_content(chunk):
                    yield message

        requests = AsyncRequests(messages())
        call = self._stub.StreamingClassify(requests, **self._options)
        try:
            async with self._served(call, requests):
                async for message in call:
                    if message.HasField("summary"):
                        await call.code()  # awaits the end, as above
                    yield self._streamed(message)
                    if message.HasField("summary"):  # the last one; the client may be writing still
                        return
        finally:
            call.cancel()

    @checked
    async def extract_features(
        self, video: VideoFile, query: Query = DEFAULT_QUERY, *, progress: Progress | None = None
    ) -> ServedFeatures:
        """Upload a video file and return its features in the time range of ``query``."""
        requests = Requests(extract_requests(video, query, progress))
        call = self._stub.ExtractFeatures(requests, **self._options)
        async with self._served(call, requests):
            messages = [message async for message in call]
        return self._features(messages)

    @checked
    async def score_features(
        self, features: NDArray[np.float32] | ServedFeatures, query: Query = DEFAULT_QUERY
    ) -> ServedRecognition:
        """Return the actions from features float32 [T, D]."""
        requests = Requests(score_requests(features, query))
        call = self._stub.ScoreFeatures(requests, **self._options)
        async with self._served(call, requests):
            response = await call
        return recognition_of(response.result, "<features>")
