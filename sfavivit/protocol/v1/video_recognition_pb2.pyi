import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListHeadsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListHeadsResponse(_message.Message):
    __slots__ = ("model", "heads", "frame_format", "model_digests")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    heads: _containers.RepeatedCompositeFieldContainer[Head]
    frame_format: FrameFormat
    model_digests: _containers.RepeatedCompositeFieldContainer[ModelDigest]
    def __init__(self, model: _Optional[str] = ..., heads: _Optional[_Iterable[_Union[Head, _Mapping]]] = ..., frame_format: _Optional[_Union[FrameFormat, _Mapping]] = ..., model_digests: _Optional[_Iterable[_Union[ModelDigest, _Mapping]]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("name", "version", "outputs", "window_frame_count", "window_duration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_DURATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    outputs: _containers.RepeatedCompositeFieldContainer[HeadOutput]
    window_frame_count: int
    window_duration: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[HeadOutput, _Mapping]]] = ..., window_frame_count: _Optional[int] = ..., window_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class HeadOutput(_message.Message):
    __slots__ = ("name", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class FrameFormat(_message.Message):
    __slots__ = ("frames_per_second", "height", "width", "tubelet_frame_count")
    FRAMES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TUBELET_FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    frames_per_second: float
    height: int
    width: int
    tubelet_frame_count: int
    def __init__(self, frames_per_second: _Optional[float] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., tubelet_frame_count: _Optional[int] = ...) -> None: ...

class RecognitionConfig(_message.Message):
    __slots__ = ("heads", "top_k", "min_confidence", "stride", "start_offset", "end_offset", "content_size", "video_track")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VIDEO_TRACK_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    min_confidence: float
    stride: _duration_pb2.Duration
    start_offset: _duration_pb2.Duration
    end_offset: _duration_pb2.Duration
    content_size: int
    video_track: int
    def __init__(self, heads: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., min_confidence: _Optional[float] = ..., stride: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., start_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., content_size: _Optional[int] = ..., video_track: _Optional[int] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("config", "content")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    config: RecognitionConfig
    content: bytes
    def __init__(self, config: _Optional[_Union[RecognitionConfig, _Mapping]] = ..., content: _Optional[bytes] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: RecognitionResult
    def __init__(self, result: _Optional[_Union[RecognitionResult, _Mapping]] = ...) -> None: ...

class StreamingClassifyConfig(_message.Message):
    __slots__ = ("recognition", "provisional_interval")
    RECOGNITION_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    recognition: RecognitionConfig
    provisional_interval: _duration_pb2.Duration
    def __init__(self, recognition: _Optional[_Union[RecognitionConfig, _Mapping]] = ..., provisional_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class FrameChunk(_message.Message):
    __slots__ = ("frame_count", "height", "width", "data")
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    frame_count: int
    height: int
    width: int
    data: bytes
    def __init__(self, frame_count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StreamingClassifyRequest(_message.Message):
    __slots__ = ("config", "content", "frames")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    config: StreamingClassifyConfig
    content: bytes
    frames: FrameChunk
    def __init__(self, config: _Optional[_Union[StreamingClassifyConfig, _Mapping]] = ..., content: _Optional[bytes] = ..., frames: _Optional[_Union[FrameChunk, _Mapping]] = ...) -> None: ...

class StreamingClassifyResponse(_message.Message):
    __slots__ = ("window", "summary")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    window: WindowResult
    summary: RecognitionResult
    def __init__(self, window: _Optional[_Union[WindowResult, _Mapping]] = ..., summary: _Optional[_Union[RecognitionResult, _Mapping]] = ...) -> None: ...

class ExtractFeaturesRequest(_message.Message):
    __slots__ = ("config", "content")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    config: ExtractFeaturesConfig
    content: bytes
    def __init__(self, config: _Optional[_Union[ExtractFeaturesConfig, _Mapping]] = ..., content: _Optional[bytes] = ...) -> None: ...

class ExtractFeaturesConfig(_message.Message):
    __slots__ = ("start_offset", "end_offset", "content_size", "video_track")
    START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VIDEO_TRACK_FIELD_NUMBER: _ClassVar[int]
    start_offset: _duration_pb2.Duration
    end_offset: _duration_pb2.Duration
    content_size: int
    video_track: int
    def __init__(self, start_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., content_size: _Optional[int] = ..., video_track: _Optional[int] = ...) -> None: ...

class ExtractFeaturesResponse(_message.Message):
    __slots__ = ("features", "summary")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    features: FeatureChunk
    summary: FeatureSummary
    def __init__(self, features: _Optional[_Union[FeatureChunk, _Mapping]] = ..., summary: _Optional[_Union[FeatureSummary, _Mapping]] = ...) -> None: ...

class FeatureChunk(_message.Message):
    __slots__ = ("tubelet_count", "hidden_size", "data")
    TUBELET_COUNT_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    tubelet_count: int
    hidden_size: int
    data: bytes
    def __init__(self, tubelet_count: _Optional[int] = ..., hidden_size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class FeatureSummary(_message.Message):
    __slots__ = ("frames_used", "start_offset", "duration", "timings", "model_digests", "warning")
    FRAMES_USED_FIELD_NUMBER: _ClassVar[int]
    START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    frames_used: int
    start_offset: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    timings: StageTimings
    model_digests: _containers.RepeatedCompositeFieldContainer[ModelDigest]
    warning: str
    def __init__(self, frames_used: _Optional[int] = ..., start_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ..., model_digests: _Optional[_Iterable[_Union[ModelDigest, _Mapping]]] = ..., warning: _Optional[str] = ...) -> None: ...

class ScoreFeaturesConfig(_message.Message):
    __slots__ = ("recognition", "frames_used", "spatial_sha256")
    RECOGNITION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_USED_FIELD_NUMBER: _ClassVar[int]
    SPATIAL_SHA256_FIELD_NUMBER: _ClassVar[int]
    recognition: RecognitionConfig
    frames_used: int
    spatial_sha256: str
    def __init__(self, recognition: _Optional[_Union[RecognitionConfig, _Mapping]] = ..., frames_used: _Optional[int] = ..., spatial_sha256: _Optional[str] = ...) -> None: ...

class ScoreFeaturesRequest(_message.Message):
    __slots__ = ("config", "features")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    config: ScoreFeaturesConfig
    features: FeatureChunk
    def __init__(self, config: _Optional[_Union[ScoreFeaturesConfig, _Mapping]] = ..., features: _Optional[_Union[FeatureChunk, _Mapping]] = ...) -> None: ...

class ScoreFeaturesResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: RecognitionResult
    def __init__(self, result: _Optional[_Union[RecognitionResult, _Mapping]] = ...) -> None: ...

class TimeRange(_message.Message):
    __slots__ = ("start_offset", "end_offset")
    START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    start_offset: _duration_pb2.Duration
    end_offset: _duration_pb2.Duration
    def __init__(self, start_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end_offset: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "confidence")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("time_range", "label", "confidence")
    TIME_RANGE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    time_range: TimeRange
    label: str
    confidence: float
    def __init__(self, time_range: _Optional[_Union[TimeRange, _Mapping]] = ..., label: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class WindowResult(_message.Message):
    __slots__ = ("head", "time_range", "provisional", "frames_used", "outputs")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TIME_RANGE_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_FIELD_NUMBER: _ClassVar[int]
    FRAMES_USED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    head: str
    time_range: TimeRange
    provisional: bool
    frames_used: int
    outputs: _containers.RepeatedCompositeFieldContainer[OutputScores]
    def __init__(self, head: _Optional[str] = ..., time_range: _Optional[_Union[TimeRange, _Mapping]] = ..., provisional: _Optional[bool] = ..., frames_used: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[OutputScores, _Mapping]]] = ...) -> None: ...

class OutputScores(_message.Message):
    __slots__ = ("output", "labels", "logits")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    output: str
    labels: _containers.RepeatedCompositeFieldContainer[LabelScore]
    logits: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, output: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., logits: _Optional[_Iterable[float]] = ...) -> None: ...

class RecognitionResult(_message.Message):
    __slots__ = ("duration", "frames_used", "heads", "timings", "model_digests", "warning")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_USED_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    duration: _duration_pb2.Duration
    frames_used: int
    heads: _containers.RepeatedCompositeFieldContainer[HeadResult]
    timings: StageTimings
    model_digests: _containers.RepeatedCompositeFieldContainer[ModelDigest]
    warning: str
    def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., frames_used: _Optional[int] = ..., heads: _Optional[_Iterable[_Union[HeadResult, _Mapping]]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ..., model_digests: _Optional[_Iterable[_Union[ModelDigest, _Mapping]]] = ..., warning: _Optional[str] = ...) -> None: ...

class HeadResult(_message.Message):
    __slots__ = ("head", "outputs")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    head: str
    outputs: _containers.RepeatedCompositeFieldContainer[OutputResult]
    def __init__(self, head: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[OutputResult, _Mapping]]] = ...) -> None: ...

class OutputResult(_message.Message):
    __slots__ = ("output", "labels", "timeline", "logits")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    output: str
    labels: _containers.RepeatedCompositeFieldContainer[LabelScore]
    timeline: _containers.RepeatedCompositeFieldContainer[Segment]
    logits: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, output: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., timeline: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., logits: _Optional[_Iterable[float]] = ...) -> None: ...

class StageTimings(_message.Message):
    __slots__ = ("decode_time_ns", "queue_time_ns", "spatial_time_ns", "temporal_time_ns", "total_time_ns", "device")
    DECODE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SPATIAL_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    TEMPORAL_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    decode_time_ns: int
    queue_time_ns: int
    spatial_time_ns: int
    temporal_time_ns: int
    total_time_ns: int
    device: str
    def __init__(self, decode_time_ns: _Optional[int] = ..., queue_time_ns: _Optional[int] = ..., spatial_time_ns: _Optional[int] = ..., temporal_time_ns: _Optional[int] = ..., total_time_ns: _Optional[int] = ..., device: _Optional[str] = ...) -> None: ...

class ModelDigest(_message.Message):
    __slots__ = ("model", "sha256")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    model: str
    sha256: str
    def __init__(self, model: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...
