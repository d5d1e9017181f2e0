"""Confidence of every label over time, gathered from window scores in memory that has a bound.

A tubelet's probability is its mean over the windows that cover it, as in the timeline. A video of more than
``MAX_BINS`` tubelets (5.5 minutes at 6.25 tubelets a second) is kept in bins of 2, 4, 8 ... tubelets:

    tubelets   0 1 2 3 4 5 6 7 8 9      MAX_BINS = 8
    bins       0   1   2   3   4        the ninth tubelet made every two bins one
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
        self._sums = np.zeros((0, classes), np.float64)
        self._weights = np.zeros(0)
        self.bin_tubelets = 1

    def add(self, window: Window, probabilities: NDArray[np.floating[Any]]) -> None:
        """Count a window's probabilities [C] for the tubelets it covers."""
        while window.stop > self._max_bins * self.bin_tubelets:
            self._halve()
        size = self.bin_tubelets
        first, stop = window.start // size, -(-window.stop // size)
        if stop > len(self._weights):
            missing = stop - len(self._weights)
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
            self._weights = np.pad(self._weights, (0, missing))
        edges = np.arange(first, stop + 1) * size
        covered = np.minimum(edges[1:], window.stop) - np.maximum(edges[:-1], window.start)
        self._sums[first:stop] += covered[:, None] * probabilities
        self._weights[first:stop] += covered

    def means(self) -> NDArray[np.float64]:
        """float64 [bins, C]."""
        return np.asarray(self._sums / np.maximum(self._weights, 1)[:, None])

    def _halve(self) -> None:
        odd = len(self._weights) % 2
        self._sums = np.pad(self._sums, ((0, odd), (0, 0)))
        self._sums = self._sums[::2] + self._sums[1::2]
        self._weights = np.pad(self._weights, (0, odd))
        self._weights = self._weights[::2] + self._weights[1::2]
        self.bin_tubelets *= 2


@dataclass(frozen=True)
class Lane:
    """A label and its probability in every bin, float64 [bins]."""

    label: str
    confidences: NDArray[np.float64]


@dataclass(frozen=True)
class OutputCurves:
    """The lanes of one output. Bin k is ``bin_seconds`` long and starts at ``start_seconds`` + k times that.

    ``lanes``: labels that win a bin, in order of their first, then the other best labels of the whole video.
    ``winners``: int [bins], the lane of the most probable label; ``NO_LANE`` where that was left out.
    ``labels_left_out``: how many labels win somewhere, but not long enough to be among ``MAX_LANES``.
    """

    start_seconds: float
    bin_seconds: float
    lanes: tuple[Lane, ...]
    winners: NDArray[np.int64]
    labels_left_out: int


class CurveRecorder:
    """Takes the windows of one video, of any heads, as ``on_window`` of ``Recognizer.recognize``."""

    def __init__(self, tubelet_seconds: float, start_seconds: float = 0.0) -> None:
        self._tubelet_seconds = tubelet_seconds
        self._start_seconds = start_seconds
        self._builders: dict[tuple[str, str], CurveBuilder] = {}

    def __call__(self, scores: WindowScores) -> None:
        window = Window(round(self._tubelets(scores.start_seconds)), self._stop(scores.end_seconds))
        for output, logits in scores.logits.items():
            builder = self._builders.setdefault((scores.head, output), CurveBuilder(len(logits)))
            builder.add(window, softmax(logits))

    def curves(
        self, head: str, output: str, result: OutputResult, labels: Sequence[str]
    ) -> OutputCurves | None:
        """The lanes of an output; None when it had no windows of its own in time (several views)."""
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

    def _tubelets(self, seconds: float) -> float:
        return (seconds - self._start_seconds) / self._tubelet_seconds

    def _stop(self, seconds: float) -> int:
        """A last tubelet that is not full ends early, and counts."""
        return math.ceil(self._tubelets(seconds) - 1e-3)


def _shown_classes(best: NDArray[np.intp], result: OutputResult) -> tuple[list[int], int]:
    """Classes that get a lane, in the lanes' order, and how many winners get none."""
    classes, firsts, bins = np.unique(best, return_index=True, return_counts=True)
    longest = np.argsort(-bins, kind="stable")[:MAX_LANES]
    winners = classes[longest][np.argsort(firsts[longest])].tolist()
    order = np.argsort(-result.logits, kind="stable")[: len(result.labels)].tolist()
    others = [index for index in order if index not in set(winners)]
    return (winners + others)[:MAX_LANES], len(classes) - len(winners)
