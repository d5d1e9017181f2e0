"""Results of recognition, and their JSON form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import UsageError
from sfavivit.types import Logits


@dataclass(frozen=True)
class LabelScore:
    """A label and its probability in [0, 1]."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the video with one label; ``confidence`` is its mean probability there."""

    start_seconds: float
    end_seconds: float
    label: str
    confidence: float


@dataclass(frozen=True)
class WindowScores:
    """Scores of one window of one head, available once its last frame has been through the spatial engine.

    ``logits``: {output: float32 [C]}. ``frames_used``: frames whose features had arrived by then.
    """

    head: str
    start_seconds: float
    end_seconds: float
    frames_used: int
    logits: Logits
    labels: dict[str, tuple[LabelScore, ...]]


@dataclass(frozen=True)
class OutputResult:
    """Result of one output of one head for a whole video.

    ``logits``: float32 [C], the mean over windows; ``labels``: its top-k.
    """

    labels: tuple[LabelScore, ...]
    timeline: tuple[Segment, ...]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each stage. Stages overlap, so the total is less than their sum.

    ``device``: the device that computed, such as ``cpu`` or ``cuda:0``; empty where that is not known.
    """

    decode_seconds: float
    spatial_seconds: float
    temporal_seconds: float
    total_seconds: float
    device: str = ""


@dataclass(frozen=True)
class Recognition:
    """Answer for one video. ``warning`` says what was irregular in the file (:class:`VideoReader`)."""

    video: str
    duration_seconds: float
    frames_used: int
    heads: dict[str, dict[str, OutputResult]]
    timings: Timings
    warning: str | None = None

    @property
    def labels(self) -> tuple[LabelScore, ...]:
        """Most probable labels of the video, best first. Raises ``UsageError`` as ``only_result``."""
        return self.only_result.labels

    @property
    def timeline(self) -> tuple[Segment, ...]:
        """Segments of the video in time. Raises ``UsageError`` as ``only_result``."""
        return self.only_result.timeline

    @property
    def only_result(self) -> OutputResult:
        """Result of the one output of the one head.

        Raises:
            UsageError: there are several heads or outputs.
        """
        results = [(head, output) for head, outputs in self.heads.items() for output in outputs]
        if len(results) != 1:
            raise UsageError(
                f"this answer has the results (head, output) {', '.join(map(str, results))}; "
                "take one of them: answer.heads[head][output]"
            )
        ((head, output),) = results
        return self.heads[head][output]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``sfavivit classify --json`` prints."""
        heads = {
            head: {
                output: {
                    "labels": [asdict(score) for score in result.labels],
                    "timeline": [asdict(segment) for segment in result.timeline],
                }
                for output, result in outputs.items()
            }
            for head, outputs in self.heads.items()
        }
        fields = {
            "video": self.video,
            "duration_seconds": self.duration_seconds,
            "frames_used": self.frames_used,
            "heads": heads,
            "timings": asdict(self.timings),
        }
        return fields | ({"warning": self.warning} if self.warning else {})


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def top_labels(
    probabilities: NDArray[np.float64], labels: Sequence[str], top_k: int
) -> tuple[LabelScore, ...]:
    """Return the ``top_k`` most probable labels, best first; ties in class order."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(LabelScore(labels[i], float(probabilities[i])) for i in order)
