"""Reports of videos that were never classified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfavivit.errors import DecodeError
from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment, Timings
from sfavivit.reports.curves import Lane, OutputCurves
from sfavivit.reports.video_report import OutputReport, VideoReport

FAILED = VideoReport("broken.mp4", error=DecodeError("broken.mp4: cannot be read"))


def report_of(labels: Sequence[str], video: str = "v.mp4", outputs: Sequence[str] = ("",)) -> VideoReport:
    """Segments of 1.5 s each, with those labels, in every output; curves that agree."""
    segments = tuple(Segment(k * 1.5, (k + 1) * 1.5, label, 0.75) for k, label in enumerate(labels))
    result = OutputResult((LabelScore(labels[0], 0.5),), segments, np.zeros(len(labels), np.float32))
    lanes = tuple(Lane(label, np.eye(len(labels))[k] * 0.75) for k, label in enumerate(labels))
    curves = OutputCurves(0.0, 1.5, lanes, np.arange(len(labels)), 0)
    answer = Recognition(
        video, 1.5 * len(labels), 100, {"h": dict.fromkeys(outputs, result)}, Timings(1, 2, 3, 4)
    )
    return VideoReport(video, answer, tuple(OutputReport("h", output, result, curves) for output in outputs))
