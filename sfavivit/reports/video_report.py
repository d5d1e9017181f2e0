"""Content of a report on one video: its answer with curves, or its error."""

from __future__ import annotations

from dataclasses import dataclass

from sfavivit.errors import SfaVivitError
from sfavivit.inference.recognizer import Recognizer
from sfavivit.inference.results import OutputResult, Recognition
from sfavivit.reports.curves import CurveRecorder, OutputCurves
from sfavivit.utils.text import output_title


@dataclass(frozen=True)
class OutputReport:
    """Report on an output of a head; ``curves`` is None where the answer has no timeline."""

    head: str
    output: str
    result: OutputResult
    curves: OutputCurves | None

    @property
    def title(self) -> str:
        """Name to show."""
        return output_title(self.head, self.output)


@dataclass(frozen=True)
class VideoReport:
    """Report on a video: its answer, or an error and no outputs. ``video_track``: the one asked for."""

    video: str
    answer: Recognition | None = None
    outputs: tuple[OutputReport, ...] = ()
    error: SfaVivitError | None = None
    video_track: int | None = None


def recorder_for(recognizer: Recognizer) -> CurveRecorder:
    """Return a recorder to be ``on_scores`` of ``Recognizer.classify``, for one video."""
    manifest = recognizer.manifest
    return CurveRecorder(manifest.dimensions.tubelet_frames / manifest.sampling.fps)


def video_report(recognizer: Recognizer, answer: Recognition, recorder: CurveRecorder) -> VideoReport:
    """Return a report of the answer for a video, with the curves recorded meanwhile."""
    outputs = tuple(
        OutputReport(
            head, output, result, recorder.curves(head, output, result, recognizer.model.labels[head][output])
        )
        for head, results in answer.heads.items()
        for output, result in results.items()
    )
    return VideoReport(answer.video, answer, outputs)
