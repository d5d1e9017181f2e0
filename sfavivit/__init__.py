"""SFA-ViViT serving: long-video action recognition in which every tubelet is computed once.

>>> from sfavivit import Recognizer
>>> answer = Recognizer.load("model_repository").classify("video.mp4")
>>> answer.timeline[0]
"""

from typing import TYPE_CHECKING, Any

from sfavivit.config import Sampling
from sfavivit.errors import (
    EngineError,
    FeatureStoreError,
    HeadNotFoundError,
    InvalidInputError,
    RepositoryError,
    ServiceError,
    SfaVivitError,
    UsageError,
    VideoError,
)
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.inference.recognizer import Recognizer
from sfavivit.inference.results import (
    LabelScore,
    OutputResult,
    Recognition,
    Segment,
    Timings,
    WindowScores,
)
from sfavivit.repository.manifest import Manifest, Repository
from sfavivit.video.limits import Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment

if TYPE_CHECKING:
    from sfavivit.protocol.client import AsyncVideoRecognitionClient, VideoRecognitionClient

__all__ = [
    "AsyncVideoRecognitionClient",
    "ClassifyOptions",
    "EngineError",
    "FeatureStore",
    "FeatureStoreError",
    "HeadNotFoundError",
    "InvalidInputError",
    "LabelScore",
    "Limits",
    "Manifest",
    "OutputResult",
    "Recognition",
    "Recognizer",
    "Repository",
    "RepositoryError",
    "Sampling",
    "Segment",
    "ServiceError",
    "SfaVivitError",
    "Timings",
    "UsageError",
    "VideoError",
    "VideoReader",
    "VideoRecognitionClient",
    "VideoSegment",
    "Views",
    "WindowScores",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load the names that cost time, or an extra, when they are asked for."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes 20 ms, which few want

        return version("sfavivit")
    if name in ("AsyncVideoRecognitionClient", "VideoRecognitionClient"):
        from sfavivit.protocol import client  # noqa: PLC0415 - gRPC is heavy, and an extra

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
