"""Request messages of a call: the config first, then the content in pieces."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError
from sfavivit.protocol.answers import Query, ServedFeatures
from sfavivit.protocol.messages import (
    duration,
    features_message,
    frames_message,
    query_message,
)
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from sfavivit.video.source import open_source

PIECE_BYTES = 256 << 10  # far below gRPC's limit of 4 MiB for a message, and large enough to be quick

VideoFile = str | os.PathLike[str] | bytes
"""A path, or the content of a video file."""

Progress = Callable[[int, int], None]
"""Called with the number of bytes sent and the size of the file."""


class Requests(Iterator[Any]):
    """Iterator for gRPC that keeps the error of making a message, which gRPC would swallow."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self.error: BaseException | None = None

    def __next__(self) -> Any:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


class AsyncRequests(AsyncIterator[Any]):
    """Asynchronous ``Requests``."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = messages
        self.error: BaseException | None = None

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


def classify_requests(
    video: VideoFile, query: Query, progress: Progress | None = None
) -> Iterator[pb.ClassifyRequest]:
    """Yield the messages of a file to classify.

    Raises:
        VideoError: the file cannot be read.
    """
    for size, piece in _pieces(video, progress):
        if piece is None:
            yield pb.ClassifyRequest(config=query_message(query, size))
        else:
            yield pb.ClassifyRequest(content=piece)


def extract_requests(
    video: VideoFile, query: Query, progress: Progress | None = None
) -> Iterator[pb.ExtractFeaturesRequest]:
    """Yield the messages of a file to extract features from, in the time range of ``query``.

    Raises:
        VideoError: the file cannot be read.
    """
    end = None if query.end_seconds is None else duration(query.end_seconds)
    for size, piece in _pieces(video, progress):
        if piece is None:
            config = pb.ExtractFeaturesConfig(
                start_offset=duration(query.start_seconds),
                end_offset=end,
                content_size=size,
                video_track=query.video_track,
            )
            yield pb.ExtractFeaturesRequest(config=config)
        else:
            yield pb.ExtractFeaturesRequest(content=piece)


def streaming_requests(
    chunks: Iterable[bytes | NDArray[np.uint8]], query: Query, provisional_seconds: float | None
) -> Iterator[pb.StreamingClassifyRequest]:
    """Yield the messages of bytes of a file in pieces of any size, or of frames uint8 [n, H, W, 3]."""
    yield streaming_config(query, provisional_seconds)
    for chunk in chunks:
        yield from streaming_content(chunk)


def streaming_config(query: Query, provisional_seconds: float | None) -> pb.StreamingClassifyRequest:
    """Return the first message of a stream."""
    interval = None if provisional_seconds is None else duration(provisional_seconds)
    config = pb.StreamingClassifyConfig(recognition=query_message(query), provisional_interval=interval)
    return pb.StreamingClassifyRequest(config=config)


def streaming_content(chunk: bytes | NDArray[np.uint8]) -> Iterator[pb.StreamingClassifyRequest]:
    """Yield the messages of one chunk, each small enough for gRPC.

    Raises:
        InvalidInputError: the array is not uint8 [n, H, W, 3].
    """
    if isinstance(chunk, bytes):
        for at in range(0, len(chunk), PIECE_BYTES):
            yield pb.StreamingClassifyRequest(content=chunk[at : at + PIECE_BYTES])
        return
    if chunk.ndim != 4 or chunk.dtype != np.uint8 or chunk.shape[3] != 3:
        raise InvalidInputError(f"frames are {chunk.dtype} {list(chunk.shape)}; send uint8 [n, H, W, 3]")
    step = max(1, PIECE_BYTES * 8 // max(1, chunk[:1].nbytes))
    for at in range(0, len(chunk), step):
        yield pb.StreamingClassifyRequest(frames=frames_message(chunk[at : at + step]))


def score_requests(
    features: NDArray[np.float32] | ServedFeatures, query: Query
) -> Iterator[pb.ScoreFeaturesRequest]:
    """Yield the messages of features float32 [T, D].

    Features that a service extracted bring their start, frame count and model along.

    Raises:
        InvalidInputError: another shape or dtype.
    """
    frames_used, digest = 0, ""
    if isinstance(features, ServedFeatures):
        frames_used = features.frames_used
        digest = next(iter(features.model_digests.values()), "")
        query = Query(**vars(query) | {"start_seconds": features.start_seconds})
        features = features.features
    if features.ndim != 2 or features.dtype != np.float32:
        raise InvalidInputError(f"features are {features.dtype} {list(features.shape)}; send float32 [T, D]")
    config = pb.ScoreFeaturesConfig(
        recognition=query_message(query), frames_used=frames_used, spatial_sha256=digest
    )
    yield pb.ScoreFeaturesRequest(config=config)
    step = max(1, PIECE_BYTES // max(1, features[:1].nbytes))
    for at in range(0, len(features), step):
        yield pb.ScoreFeaturesRequest(features=features_message(features[at : at + step]))


def _pieces(video: VideoFile, progress: Progress | None) -> Iterator[tuple[int, bytes | None]]:
    """Yield (size of the file, None), then (size, next bytes) until the end."""
    descriptor = open_source(video)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        yield size, None
        sent = 0
        while piece := file.read(PIECE_BYTES):
            yield size, piece
            sent += len(piece)
            if progress:
                progress(sent, size)
