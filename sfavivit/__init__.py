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
]
