"""Timeline of a video from the scores of its windows: one label for every tubelet.

windows of several lengths ──► mean over the windows of a length that cover a tubelet
                               mean over the lengths
                               path of labels of the largest sum of log scores - cost of each change
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.inference.windows import Window

Scores = NDArray[np.float64]

# Tubelets after which the label of the oldest is final, if no path has settled it before: 82 s of 12.5 fps.
_MAX_OPEN_TUBELETS = 512
_MIN_PROBABILITY = 1e-6  # its logarithm bounds what one tubelet can outweigh


@dataclass(frozen=True)
class Run:
    """A run of tubelets ``[start, stop)`` with one label, and that label's mean probability."""

    start: int
    stop: int
    label: int
    confidence: float


class TimelineBuilder:
    """Turns window probabilities into runs of labels, in memory that does not grow with the windows.

    A tubelet's scores are the mean over the window lengths of the mean over the windows that cover it. The
    labels are the best path through the scores (Viterbi), on which each change of the label costs
    ``switch_cost``; at 0 it is the largest score of every tubelet. Windows of a length come in order of their
    starts, so tubelets before the newest start of every length are settled and need not be kept.

    ``on_scores`` is called with the number of a tubelet and the scores [n, C] from it on, once settled.
    """

    def __init__(
        self,
        classes: int,
        lengths: Sequence[int],
        switch_cost: float = 0.0,
        on_scores: Callable[[int, Scores], None] | None = None,
    ) -> None:
        self._sums = {length: _WindowSums(classes) for length in lengths}
        self._path = _LabelPath(classes, switch_cost)
        self._on_scores = on_scores
        self._settled = 0
        self._runs: list[Run] = []

    def add(self, length: int, window: Window, probabilities: NDArray[np.floating[Any]]) -> None:
        """Add the probabilities [C] of a window of ``length``, or of one that is shorter at the end."""
        self._sums[length].add(window, probabilities)
        self._settle(min(sums.settled for sums in self._sums.values()))

    def finish(self) -> list[Run]:
        """Return the runs of the whole video; no windows may follow."""
        self._settle(max(sums.stop for sums in self._sums.values()))
        for label, confidence in self._path.finish():
            self._append(label, confidence)
        return self._runs

    def _settle(self, stop: int) -> None:
        taken = [sums.take(stop) for sums in self._sums.values()]
        if not len(taken[0]):
            return
        scores = np.mean(taken, axis=0) if len(taken) > 1 else taken[0]
        if self._on_scores:
            self._on_scores(self._settled, scores)
        self._settled += len(scores)
        for label, confidence in self._path.add(scores):
            self._append(label, confidence)

    def _append(self, label: int, confidence: float) -> None:
        start = self._runs[-1].stop if self._runs else 0
        stop = start + 1
        if self._runs and self._runs[-1].label == label:
            last = self._runs.pop()
            length = last.stop - last.start
            start, confidence = last.start, last.confidence + (confidence - last.confidence) / (length + 1)
        self._runs.append(Run(start, stop, label, confidence))


class _WindowSums:
    """Sums of the probabilities of the windows of one length, of the tubelets that were not taken yet.

    ``settled``: tubelets before it get no more windows. ``stop``: end of the last window.
    """

    def __init__(self, classes: int) -> None:
        self._sums = np.zeros((0, classes))
        self._counts = np.zeros(0)
        self._first = self.settled = self.stop = 0

    def add(self, window: Window, probabilities: NDArray[np.floating[Any]]) -> None:
        self.settled = window.start
        missing = window.stop - self._first - len(self._sums)
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
            self._counts = np.pad(self._counts, (0, missing))
        self._sums[window.start - self._first : window.stop - self._first] += probabilities
        self._counts[window.start - self._first : window.stop - self._first] += 1
        self.stop = max(self.stop, window.stop)

    def take(self, stop: int) -> Scores:
        """Return the means [n, C] of the tubelets up to ``stop`` that were not taken before."""
        count = max(0, stop - self._first)
        means = self._sums[:count] / self._counts[:count, None]
        self._sums, self._counts = self._sums[count:], self._counts[count:]
        self._first += count
        return np.asarray(means)


class _LabelPath:
    """The best path of labels through scores that arrive bit by bit (Viterbi with a bounded delay)."""

    def __init__(self, classes: int, switch_cost: float) -> None:
        self._switch_cost = switch_cost
        self._sums = np.zeros(classes)  # of the best path to each label
        self._before: list[NDArray[np.intp]] = []  # label before, on the best path to each label
        self._scores: list[Scores] = []

    def add(self, scores: Scores) -> Iterator[tuple[int, float]]:
        """Yield the labels, and their scores, that are final with the next tubelets' scores [n, C]."""
        for row in scores:
            if self._switch_cost == 0:
                label = int(row.argmax())
                yield label, float(row[label])
                continue
            best = int(self._sums.argmax())
            switched = self._sums[best] - self._switch_cost
            stays = self._sums >= switched
            self._before.append(np.where(stays, np.arange(len(row)), best))
            self._sums = np.where(stays, self._sums, switched) + np.log(np.maximum(row, _MIN_PROBABILITY))
            self._scores.append(row)
            if len(self._scores) == _MAX_OPEN_TUBELETS:
                yield from self._close(_MAX_OPEN_TUBELETS // 2)

    def finish(self) -> Iterator[tuple[int, float]]:
        """Yield the labels that were still open."""
        yield from self._close(len(self._scores))

    def _close(self, count: int) -> Iterator[tuple[int, float]]:
        """Settle the labels of the oldest ``count`` tubelets; no later path may differ from them."""
        ends = np.arange(len(self._sums))
        for before in reversed(self._before[count:]):
            ends = before[ends]
        labels = [int(ends[self._sums.argmax()])]
        self._sums[ends != labels[0]] = -np.inf
        for before in reversed(self._before[1:count]):
            labels.append(int(before[labels[-1]]))
        for label, row in zip(reversed(labels), self._scores, strict=False):
            yield label, float(row[label])
        del self._before[:count], self._scores[:count]
