"""Conversion between the plain classes of ``answers`` and protobuf messages.

``x_message`` makes a message and ``x_of`` reads one. Values received are checked where they are used; only
those that size memory are checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError
from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment, Timings, WindowScores
from sfavivit.protocol.answers import (
    DEFAULT_TOP_K,
    FrameFormat,
    HeadInfo,
    Query,
    ServedFeatures,
    ServedRecognition,
    ServedWindow,
    ServiceInfo,
)
from sfavivit.protocol.v1 import video_recognition_pb2 as pb

NANOSECONDS = 1_000_000_000
WIRE_FLOAT = np.dtype("<f4")


def duration(seconds: float) -> Duration:
    """Return ``seconds`` to the nearest nanosecond; they must be finite and fit a Duration (10,000 years)."""
    whole, nanos = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
    return Duration(seconds=whole, nanos=nanos)


def seconds_of(value: Duration) -> float:
    """Return a Duration in seconds."""
    return value.seconds + value.nanos / NANOSECONDS


# Queries


def query_message(query: Query, content_size: int = 0) -> pb.RecognitionConfig:
    """Return the config of a request. ``content_size``: bytes that will be sent, 0 when unknown."""
    return pb.RecognitionConfig(
        heads=query.heads,
        top_k=query.top_k,
        min_confidence=query.min_confidence,
        stride=None if query.stride_seconds is None else duration(query.stride_seconds),
        start_offset=duration(query.start_seconds),
        end_offset=None if query.end_seconds is None else duration(query.end_seconds),
        content_size=content_size,
        video_track=query.video_track,
    )


def query_of(config: pb.RecognitionConfig) -> Query:
    """Return the query of a request. The recognizer checks all but ``min_confidence``.

    Raises:
        InvalidInputError: ``min_confidence`` is not from 0 to 1.
    """
    if not 0 <= config.min_confidence <= 1:
        raise InvalidInputError(f"min_confidence must be from 0 to 1, got {config.min_confidence:g}")
    return Query(
        heads=tuple(config.heads),
        top_k=config.top_k or DEFAULT_TOP_K,
        min_confidence=config.min_confidence,
        stride_seconds=seconds_of(config.stride) if config.HasField("stride") else None,
        start_seconds=seconds_of(config.start_offset),
        end_seconds=seconds_of(config.end_offset) if config.HasField("end_offset") else None,
        video_track=config.video_track if config.HasField("video_track") else None,
    )


# Arrays


def frames_message(frames: NDArray[np.uint8]) -> pb.FrameChunk:
    """Return the message of frames uint8 [n, height, width, 3]."""
    count, height, width, _ = frames.shape
    return pb.FrameChunk(frame_count=count, height=height, width=width, data=frames.tobytes())


def frames_of(chunk: pb.FrameChunk) -> NDArray[np.uint8]:
    """Return frames uint8 [n, height, width, 3].

    Raises:
        InvalidInputError: the shape does not fit the number of bytes.
    """
    shape, data = (chunk.frame_count, chunk.height, chunk.width, 3), chunk.data  # each access copies the data
    _check_size("frames", shape, 1, data)
    return np.frombuffer(data, np.uint8).reshape(shape)


def features_message(features: NDArray[np.float32]) -> pb.FeatureChunk:
    """Return the message of features float32 [T, D]."""
    count, hidden_size = features.shape
    return pb.FeatureChunk(
        tubelet_count=count, hidden_size=hidden_size, data=features.astype(WIRE_FLOAT).tobytes()
    )


def features_of(chunk: pb.FeatureChunk) -> NDArray[np.float32]:
    """Return features float32 [T, D].

    Raises:
        InvalidInputError: the shape does not fit the number of bytes, or a value is not finite.
    """
    shape, data = (chunk.tubelet_count, chunk.hidden_size), chunk.data
    _check_size("features", shape, WIRE_FLOAT.itemsize, data)
    features = np.frombuffer(data, WIRE_FLOAT).reshape(shape).astype(np.float32)
    if not np.isfinite(features).all():
        raise InvalidInputError("features hold NaN or infinity; extract them again")
    return features


def _check_size(what: str, shape: tuple[int, ...], item_bytes: int, data: bytes) -> None:
    if min(shape) < 1:
        raise InvalidInputError(f"{what} of shape {list(shape)}: every size must be at least 1")
    if math.prod(shape) * item_bytes != len(data):
        raise InvalidInputError(
            f"{what} of shape {list(shape)} take {math.prod(shape) * item_bytes} bytes, but {len(data)} came"
        )


# Answers


def recognition_message(
    answer: Recognition, *, queue_seconds: float, model_digests: Mapping[str, str], min_confidence: float
) -> pb.RecognitionResult:
    """Return the message of an answer, without the labels and segments below ``min_confidence``."""
    heads = [
        pb.HeadResult(
            head=head,
            outputs=[
                pb.OutputResult(
                    output=output,
                    labels=_labels(result.labels, min_confidence),
                    timeline=[_segment(s) for s in result.timeline if s.confidence >= min_confidence],
                    logits=result.logits.tolist(),
                )
                for output, result in outputs.items()
            ],
        )
        for head, outputs in answer.heads.items()
    ]
    return pb.RecognitionResult(
        duration=duration(answer.duration_seconds),
        frames_used=answer.frames_used,
        heads=heads,
        timings=timings_message(answer.timings, queue_seconds),
        model_digests=_digests(model_digests),
        warning=answer.warning or "",
    )


def recognition_of(message: pb.RecognitionResult, video: str) -> ServedRecognition:
    """Return the answer of a message. ``video``: the client's name of the video."""
    heads = {
        head.head: {
            result.output: OutputResult(
                _labels_of(result.labels),
                tuple(
                    Segment(*_range_of(segment.time_range), segment.label, segment.confidence)
                    for segment in result.timeline
                ),
                np.asarray(result.logits, np.float32),
            )
            for result in head.outputs
        }
        for head in message.heads
    }
    return ServedRecognition(
        video,
        seconds_of(message.duration),
        message.frames_used,
        heads,
        timings_of(message.timings),
        message.warning or None,
        message.timings.queue_time_ns / NANOSECONDS,
        _digests_of(message.model_digests),
    )


def window_message(
    scores: WindowScores, *, provisional: bool = False, min_confidence: float = 0.0
) -> pb.WindowResult:
    """Return the message of a window's scores, without the labels below ``min_confidence``."""
    outputs = [
        pb.OutputScores(
            output=output, labels=_labels(labels, min_confidence), logits=scores.logits[output].tolist()
        )
        for output, labels in scores.labels.items()
    ]
    return pb.WindowResult(
        head=scores.head,
        time_range=_range(scores.start_seconds, scores.end_seconds),
        provisional=provisional,
        frames_used=scores.frames_used,
        outputs=outputs,
    )


def window_of(message: pb.WindowResult) -> ServedWindow:
    """Return the window's scores of a message."""
    return ServedWindow(
        message.head,
        *_range_of(message.time_range),
        message.frames_used,
        {scores.output: np.asarray(scores.logits, np.float32) for scores in message.outputs},
        {scores.output: _labels_of(scores.labels) for scores in message.outputs},
        message.provisional,
    )


def feature_summary_message(
    *,
    frames_used: int,
    start_seconds: float,
    duration_seconds: float,
    timings: Timings,
    queue_seconds: float,
    model_digests: Mapping[str, str],
    warning: str | None,
) -> pb.FeatureSummary:
    """Return the message that follows the features of a video."""
    return pb.FeatureSummary(
        frames_used=frames_used,
        start_offset=duration(start_seconds),
        duration=duration(duration_seconds),
        timings=timings_message(timings, queue_seconds),
        model_digests=_digests(model_digests),
        warning=warning or "",
    )


def served_features_of(chunks: Sequence[NDArray[np.float32]], message: pb.FeatureSummary) -> ServedFeatures:
    """Return the features of a video from its chunks, float32 [n, D] each, and the summary after them."""
    return ServedFeatures(
        np.concatenate(chunks),
        message.frames_used,
        seconds_of(message.start_offset),
        seconds_of(message.duration),
        timings_of(message.timings),
        message.timings.queue_time_ns / NANOSECONDS,
        _digests_of(message.model_digests),
        message.warning or None,
    )


def service_info_message(info: ServiceInfo) -> pb.ListHeadsResponse:
    """Return the response of ListHeads."""
    heads = [
        pb.Head(
            name=head.name,
            version=head.version,
            outputs=[pb.HeadOutput(name=name, labels=labels) for name, labels in head.outputs.items()],
            window_frame_count=head.window_frames,
            window_duration=duration(head.window_seconds),
        )
        for head in info.heads.values()
    ]
    frames = info.frame_format
    return pb.ListHeadsResponse(
        model=info.model,
        heads=heads,
        frame_format=pb.FrameFormat(
            frames_per_second=frames.fps,
            height=frames.height,
            width=frames.width,
            tubelet_frame_count=frames.tubelet_frames,
        ),
        model_digests=_digests(info.model_digests),
    )


def service_info_of(message: pb.ListHeadsResponse) -> ServiceInfo:
    """Return the description of a service from the response of ListHeads."""
    heads = {
        head.name: HeadInfo(
            head.name,
            head.version,
            {output.name: tuple(output.labels) for output in head.outputs},
            head.window_frame_count,
            seconds_of(head.window_duration),
        )
        for head in message.heads
    }
    frames = message.frame_format
    frame_format = FrameFormat(
        frames.frames_per_second, frames.height, frames.width, frames.tubelet_frame_count
    )
    return ServiceInfo(message.model, heads, frame_format, _digests_of(message.model_digests))


def timings_message(timings: Timings, queue_seconds: float) -> pb.StageTimings:
    """Return the message of stage timings, in nanoseconds, and of the device that computed."""
    stages = (timings.decode_seconds, queue_seconds, timings.spatial_seconds, timings.temporal_seconds)
    decode, queue, spatial, temporal = (round(seconds * NANOSECONDS) for seconds in stages)
    return pb.StageTimings(
        decode_time_ns=decode,
        queue_time_ns=queue,
        spatial_time_ns=spatial,
        temporal_time_ns=temporal,
        total_time_ns=round(timings.total_seconds * NANOSECONDS),
        device=timings.device,
    )


def timings_of(message: pb.StageTimings) -> Timings:
    """Return the timings of a message, without the queue's, which only a service has."""
    stages = (message.decode_time_ns, message.spatial_time_ns, message.temporal_time_ns)
    decode, spatial, temporal = (ns / NANOSECONDS for ns in stages)
    return Timings(decode, spatial, temporal, message.total_time_ns / NANOSECONDS, message.device)


def _labels(labels: Sequence[LabelScore], min_confidence: float) -> list[pb.LabelScore]:
    return [
        pb.LabelScore(label=score.label, confidence=score.confidence)
        for score in labels
        if score.confidence >= min_confidence
    ]


def _labels_of(labels: Sequence[pb.LabelScore]) -> tuple[LabelScore, ...]:
    return tuple(LabelScore(score.label, score.confidence) for score in labels)


def _segment(segment: Segment) -> pb.Segment:
    return pb.Segment(
        time_range=_range(segment.start_seconds, segment.end_seconds),
        label=segment.label,
        confidence=segment.confidence,
    )


def _range(start_seconds: float, end_seconds: float) -> pb.TimeRange:
    return pb.TimeRange(start_offset=duration(start_seconds), end_offset=duration(end_seconds))


def _range_of(message: pb.TimeRange) -> tuple[float, float]:
    return seconds_of(message.start_offset), seconds_of(message.end_offset)


def _digests(digests: Mapping[str, str]) -> list[pb.ModelDigest]:
    return [pb.ModelDigest(model=model, sha256=sha256) for model, sha256 in digests.items()]


def _digests_of(digests: Sequence[pb.ModelDigest]) -> dict[str, str]:
    return {digest.model: digest.sha256 for digest in digests}
