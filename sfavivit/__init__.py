"""SFA-ViViT serving: long-video action recognition in which every tubelet is computed once.

>>> from sfavivit import Recognizer
>>> answer = Recognizer.load("model_repository").classify("video.mp4")
>>> answer.heads["default"][""].labels[0]
"""

from sfavivit.errors import SfaVivitError
from sfavivit.recognizer import Recognizer
from sfavivit.repository import Manifest, Repository
from sfavivit.results import LabelScore, OutputResult, Recognition, Segment, Timings, WindowScores
from sfavivit.session import Session
from sfavivit.video import Limits, Sampling, VideoReader

__all__ = [
    "LabelScore",
    "Limits",
    "Manifest",
    "OutputResult",
    "Recognition",
    "Recognizer",
    "Repository",
    "Sampling",
    "Segment",
    "Session",
    "SfaVivitError",
    "Timings",
    "VideoReader",
    "WindowScores",
    "__version__",
]


def __getattr__(name: str) -> str:
    """Look ``__version__`` up in the installed package when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes 20 ms, which few want

        return version("sfavivit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
