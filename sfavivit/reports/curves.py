"""Confidence of every label over time, collected from window scores in bounded memory.

A tubelet's probability is its mean over the windows that cover it, as in the timeline. A video of more than
``MAX_BINS`` tubelets (5.5 minutes at 6.25 tubelets a second) is kept in bins of 2, 4, 8 ... tubelets:

    tubelets   0 1 2 3 4 5 6 7 8 9      MAX_BINS = 8
    bins       0   1   2   3   4        the ninth tubelet merged every two bins
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.inference.results import OutputResult, WindowScores, softmax
from sfavivit.inference.windows import Window

MAX_BINS = 2048
MAX_LANES = 48
NO_LANE = -1


class CurveBuilder:
    """Mean probability [bins, C] of each class of one output over time; at most ``max_bins`` (even) bins."""

    def __init__(self, classes: int, max_bins: int = MAX_BINS) -> None:
        self._max_bins = max_bins
        self._sums = np.zeros((0, classes + 1))  # of probabilities, and the number of terms
        self.bin_tubelets = 1

    def add(self, window: Window, probabilities: NDArray[np.floating[Any]]) -> None:
        """Count a window's probabilities [C] for the tubelets it covers."""
        while window.stop > self._max_bins * self.bin_tubelets:
            self._merge_pairs()
        size = self.bin_tubelets
        first, stop = window.start // size, -(-window.stop // size)
        if stop > len(self._sums):
            self._sums = np.pad(self._sums, ((0, stop - len(self._sums)), (0, 0)))
        edges = np.arange(first, stop + 1) * size
        covered = np.minimum(edges[1:], window.stop) - np.maximum(edges[:-1], window.start)
        self._sums[first:stop] += covered[:, None] * np.append(probabilities, 1)

    def means(self) -> NDArray[np.float64]:
        """Return the mean probabilities, float64 [bins, C]."""
        return np.asarray(self._sums[:, :-1] / np.maximum(self._sums[:, -1:], 1))

    def _merge_pairs(self) -> None:
        self._sums = np.pad(self._sums, ((0, len(self._sums) % 2), (0, 0)))
        self._sums = self._sums[::2] + self._sums[1::2]
        self.bin_tubelets *= 2


@dataclass(frozen=True)
class Lane:
    """A label and its probabilities, float64 [bins]."""

    label: str
    confidences: NDArray[np.float64]


@dataclass(frozen=True)
class OutputCurves:
    """Lanes of one output. Bin k starts at ``start_seconds`` + k ``bin_seconds``.

    Attributes:
        start_seconds: start of the first bin.
        bin_seconds: length of a bin.
        lanes: labels that win a bin, in order of their first win, then the other top labels of the video.
        winners: int64 [bins], lane of the most probable label; ``NO_LANE`` where it has none.
        labels_left_out: number of labels that win a bin, but too few to be among ``MAX_LANES``.
    """

    start_seconds: float
    bin_seconds: float
    lanes: tuple[Lane, ...]
    winners: NDArray[np.int64]
    labels_left_out: int


class CurveRecorder:
    """Collects the windows of one video, of any heads, as ``on_window`` of ``Recognizer.recognize``."""

    def __init__(self, tubelet_seconds: float, start_seconds: float = 0.0) -> None:
        self._tubelet_seconds = tubelet_seconds
        self._start_seconds = start_seconds
        self._builders: dict[tuple[str, str], CurveBuilder] = {}

    def __call__(self, scores: WindowScores) -> None:
        start, stop = (
            (seconds - self._start_seconds) / self._tubelet_seconds
            for seconds in (scores.start_seconds, scores.end_seconds)
        )
        window = Window(round(start), math.ceil(stop - 1e-3))  # a last tubelet that is not full counts
        for output, logits in scores.logits.items():
            builder = self._builders.setdefault((scores.head, output), CurveBuilder(len(logits)))
            builder.add(window, softmax(logits))

    def curves(
        self, head: str, output: str, result: OutputResult, labels: Sequence[str]
    ) -> OutputCurves | None:
        """Return the lanes of an output; None when the answer has no timeline (several views)."""
        builder = self._builders.get((head, output))
        if builder is None or not result.timeline:
            return None
        means = builder.means()
        best = means.argmax(1)
        shown, left_out = _shown_classes(best, result)
        lane_of = np.full(means.shape[1], NO_LANE)
        lane_of[shown] = np.arange(len(shown))
        return OutputCurves(
            self._start_seconds,
            self._tubelet_seconds * builder.bin_tubelets,
            tuple(Lane(labels[index], means[:, index].copy()) for index in shown),
            lane_of[best],
            left_out,
        )


def _shown_classes(best: NDArray[np.intp], result: OutputResult) -> tuple[list[int], int]:
    """Return the classes that get a lane, in order, and the number of winners that get none."""
    classes, firsts, bins = np.unique(best, return_index=True, return_counts=True)
    longest = np.argsort(-bins, kind="stable")[:MAX_LANES]
    winners = classes[longest][np.argsort(firsts[longest])].tolist()
    order = np.argsort(-result.logits, kind="stable")[: len(result.labels)].tolist()
    others = [index for index in order if index not in set(winners)]
    return (winners + others)[:MAX_LANES], len(classes) - len(winners)
