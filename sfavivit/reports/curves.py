"""Confidence of every label over time, collected from the scores of the timeline in bounded memory.

A video of more than
``MAX_BINS`` tubelets (5.5 minutes at 6.25 tubelets a second) is kept in bins of 2, 4, 8 ... tubelets:

    tubelets   0 1 2 3 4 5 6 7 8 9      MAX_BINS = 8
    bins       0   1   2   3   4        the ninth tubelet merged every two bins
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.inference.results import OutputResult

MAX_BINS = 2048
MAX_LANES = 48
NO_LANE = -1


class CurveBuilder:
    """Mean probability [bins, C] of each class of one output over time; at most ``max_bins`` (even) bins."""

    def __init__(self, classes: int, max_bins: int = MAX_BINS) -> None:
        self._max_bins = max_bins
        self._sums = np.zeros((0, classes + 1))  # of probabilities, and the number of terms
        self.bin_tubelets = 1

    def add(self, first: int, scores: NDArray[np.floating[Any]]) -> None:
        """Count the scores [n, C] of the tubelets from ``first`` on."""
        stop = first + len(scores)
        while stop > self._max_bins * self.bin_tubelets:
            self._merge_pairs()
        bins = np.arange(first, stop) // self.bin_tubelets
        if (missing := -(-stop // self.bin_tubelets) - len(self._sums)) > 0:
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
        np.add.at(self._sums, bins, np.pad(scores, ((0, 0), (0, 1)), constant_values=1))

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
        winners: int64 [bins], lane of the label in the timeline; ``NO_LANE`` where it has none.
        labels_left_out: number of labels that win a bin, but too few to be among ``MAX_LANES``.
    """

    start_seconds: float
    bin_seconds: float
    lanes: tuple[Lane, ...]
    winners: NDArray[np.int64]
    labels_left_out: int


class CurveRecorder:
    """Collects the scores of one video, of any heads, as ``on_scores`` of ``Recognizer.recognize``."""

    def __init__(self, tubelet_seconds: float, start_seconds: float = 0.0) -> None:
        self._tubelet_seconds = tubelet_seconds
        self._start_seconds = start_seconds
        self._builders: dict[tuple[str, str], CurveBuilder] = {}

    def __call__(self, head: str, output: str, first: int, scores: NDArray[np.float64]) -> None:
        builder = self._builders.setdefault((head, output), CurveBuilder(scores.shape[1]))
        builder.add(first, scores)

    def curves(
        self, head: str, output: str, result: OutputResult, labels: Sequence[str]
    ) -> OutputCurves | None:
        """Return the lanes of an output; None when the answer has no timeline (several views)."""
        builder = self._builders.get((head, output))
        if builder is None or not result.timeline:
            return None
        means, bin_seconds = builder.means(), self._tubelet_seconds * builder.bin_tubelets
        middles = self._start_seconds + (np.arange(len(means)) + 0.5) * bin_seconds
        starts = [segment.start_seconds for segment in result.timeline]
        at = np.clip(np.searchsorted(starts, middles, side="right") - 1, 0, None)
        best = np.array([labels.index(segment.label) for segment in result.timeline])[at]
        shown, left_out = _shown_classes(best, result)
        lane_of = np.full(means.shape[1], NO_LANE)
        lane_of[shown] = np.arange(len(shown))
        return OutputCurves(
            self._start_seconds,
            bin_seconds,
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
