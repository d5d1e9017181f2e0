"""SFA-ViViT serving: long-video action recognition in which every tubelet is computed once.

>>> from sfavivit import Recognizer
>>> answer = Recognizer.load("model_repository").classify("video.mp4")
>>> answer.heads["default"][""].labels[0]
"""

from sfavivit.config import Sampling
from sfavivit.errors import SfaVivitError
from sfavivit.inference.recognizer import Recognizer
from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment, Timings, WindowScores
from sfavivit.inference.streaming import Session
from sfavivit.repository.manifest import Manifest, Repository
from sfavivit.video.reader import Limits, VideoReader

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
]
