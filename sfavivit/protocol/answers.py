"""Queries to the video service and its answers, as plain dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.inference.results import Recognition, Timings, WindowScores
from sfavivit.video.source import Source, VideoSegment

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Query:
    """Options of a recognition.

    ``heads``: empty for all. ``stride_seconds``: from window to window, None for an eighth of a window.
    ``min_confidence``: labels and segments below it are left out. ``end_seconds``: None for the end.
    ``video_track``: number of the video track, from 0; None for the default one.
    """

    heads: tuple[str, ...] = ()
    top_k: int = DEFAULT_TOP_K
    min_confidence: float = 0.0
    stride_seconds: float | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    video_track: int | None = None

    def segment(self, source: Source) -> VideoSegment:
        """Return the stretch of a video that is asked for. Raises ``UsageError`` for an invalid one."""
        return VideoSegment(source, self.start_seconds, self.end_seconds, self.video_track)


@dataclass(frozen=True)
class HeadInfo:
    """Head of the model. ``outputs``: {output: labels of its classes}."""

    name: str
    version: int
    outputs: dict[str, tuple[str, ...]]
    window_frames: int
    window_seconds: float


@dataclass(frozen=True)
class FrameFormat:
    """Format of raw frames: uint8 [n, height, width, 3] RGB at ``fps`` frames per second."""

    fps: float
    height: int
    width: int
    tubelet_frames: int


@dataclass(frozen=True)
class ServiceInfo:
    """Model and heads of a service. ``model_digests``: {model: sha256 of its weights}."""

    model: str
    heads: dict[str, HeadInfo]
    frame_format: FrameFormat
    model_digests: dict[str, str]


@dataclass(frozen=True)
class ServedRecognition(Recognition):
    """Recognition by a service: with its wait for the engine and the digests of its models."""

    queue_seconds: float = 0.0
    model_digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedWindow(WindowScores):
    """Scores of a window. ``provisional``: from the frames so far, and no part of the final answer."""

    provisional: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``python -m client stream --json`` prints."""
        labels = {output: [asdict(score) for score in scores] for output, scores in self.labels.items()}
        names = ("head", "start_seconds", "end_seconds", "provisional", "frames_used")
        return {name: getattr(self, name) for name in names} | {"labels": labels}


@dataclass(frozen=True)
class ServedFeatures:
    """Features float32 [T, D] of a video, the frames they were computed from, and the time it took."""

    features: NDArray[np.float32]
    frames_used: int
    start_seconds: float
    duration_seconds: float
    timings: Timings
    queue_seconds: float
    model_digests: dict[str, str]
    warning: str | None = None
