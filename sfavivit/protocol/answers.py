"""What is asked of the video service and what it answers, as plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sfavivit.inference.results import Recognition, Timings, WindowScores

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Query:
    """What to answer about a video. ``heads`` empty: all; ``stride_seconds`` None: an eighth of a window."""

    heads: tuple[str, ...] = ()
    top_k: int = DEFAULT_TOP_K
    min_confidence: float = 0.0
    stride_seconds: float | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None


@dataclass(frozen=True)
class HeadInfo:
    """One head: ``outputs`` are {output: label of every class}."""

    name: str
    version: int
    outputs: dict[str, tuple[str, ...]]
    window_frames: int
    window_seconds: float


@dataclass(frozen=True)
class FrameFormat:
    """Frames as the model takes them: uint8 [n, height, width, 3] RGB, ``fps`` of them a second of video."""

    fps: float
    height: int
    width: int
    tubelet_frames: int


@dataclass(frozen=True)
class ServiceInfo:
    """What a service offers. ``model_digests``: {model: sha256 of its weights}."""

    model: str
    heads: dict[str, HeadInfo]
    frame_format: FrameFormat
    model_digests: dict[str, str]


@dataclass(frozen=True)
class ServedRecognition(Recognition):
    """A recognition with what only a service can tell: the wait for its engine, and whose answer it is."""

    queue_seconds: float = 0.0
    model_digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedWindow(WindowScores):
    """The answer of a window. ``provisional``: of the frames so far, and no part of the final answer."""

    provisional: bool = False


@dataclass(frozen=True)
class ServedFeatures:
    """Features float32 [T, D] of a video, and what they were computed from."""

    features: NDArray[np.float32]
    frames_used: int
    start_seconds: float
    duration_seconds: float
    timings: Timings
    queue_seconds: float
    model_digests: dict[str, str]
    warning: str | None = None
