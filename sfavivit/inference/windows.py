"""Arithmetic of windows over tubelets, and of the timeline made from window scores.

Windows of ``length`` tubelets start every ``stride`` tubelets; one more, aligned to the end, covers what
the last of them leaves over (length 4, stride 2, 9 tubelets):

    tubelets   0 1 2 3 4 5 6 7 8
    window 0   └─────┘
    window 1       └─────┘
    window 2           └─────┘
    tail                 └─────┘      [5, 9): starts where it must so that no tubelet is left out

A video shorter than a window is one window [0, n); the head's padding fills it (``PADDING``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """A window of tubelets ``[start, stop)``."""

    start: int
    stop: int


def complete_windows(first: int, available: int, length: int, stride: int) -> list[Window]:
    """Return the windows number ``first``, ``first + 1`` ... that ``available`` tubelets fill."""
    count = max(0, (available - length) // stride + 1)
    return [Window(k * stride, k * stride + length) for k in range(first, count)]


def tail_window(total: int, length: int, stride: int) -> Window | None:
    """Return the window that covers the tubelets after the last complete one, if there are any."""
    if total == 0:
        return None
    if total < length:
        return Window(0, total)
    return Window(total - length, total) if (total - length) % stride else None


def all_windows(total: int, length: int, stride: int) -> list[Window]:
    """Return every window of a video of ``total`` tubelets, in order of their starts."""
    tail = tail_window(total, length, stride)
    return complete_windows(0, total, length, stride) + ([tail] if tail else [])


def view_windows(total: int, length: int, clips: int) -> list[Window]:
    """Spread ``clips`` windows evenly over ``total`` tubelets, the first at the start, the last at the end.

    One clip is in the middle. A video shorter than a window is the same window, [0, total), every time.
    The temporal half of multi-view testing (for example Feichtenhofer et al., SlowFast, section 4), with
    starts rounded down to tubelets, so that clips that overlap are made of the same tubelets.
    """
    last = max(0, total - length)
    starts = [last * k // (clips - 1) for k in range(clips)] if clips > 1 else [last // 2]
    return [Window(start, min(start + length, total)) for start in starts]


# Padding of a window shorter than the model's: float32 [n, D] -> [T, D].
# loop: repeated up to the full length, as ViViT's training pipeline does with short clips.
# none: left as it is; the temporal transformer takes the positions of the first n.
PADDING: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]] = {
    "loop": lambda features, length: features[np.arange(length) % len(features)],
    "none": lambda features, _: features,
}


@dataclass(frozen=True)
class Run:
    """A run of tubelets ``[start, stop)`` with one label, and that label's mean probability."""

    start: int
    stop: int
    label: int
    confidence: float


class TimelineBuilder:
    """Turns window probabilities into runs of labels, in memory that does not grow with the windows.

    A tubelet's scores are the mean over the windows that cover it; its label is the largest. Windows come
    in order of their starts, so tubelets before the newest start are settled and need not be kept.
    """

    def __init__(self, classes: int) -> None:
        self._sums = np.zeros((0, classes))
        self._counts = np.zeros(0)
        self._settled = 0
        self._runs: list[Run] = []

    def add(self, window: Window, probabilities: NDArray[np.floating[Any]]) -> None:
        """Add a window's probabilities [C] to the tubelets it covers."""
        self._settle(window.start)
        missing = window.stop - self._settled - len(self._sums)
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
            self._counts = np.pad(self._counts, (0, missing))
        self._sums[window.start - self._settled : window.stop - self._settled] += probabilities
        self._counts[window.start - self._settled : window.stop - self._settled] += 1

    def finish(self) -> list[Run]:
        """Return the runs of the whole video."""
        self._settle(self._settled + len(self._sums))
        return self._runs

    def _settle(self, stop: int) -> None:
        count = stop - self._settled
        if count <= 0:
            return
        means = self._sums[:count] / self._counts[:count, None]
        self._sums, self._counts = self._sums[count:], self._counts[count:]
        for label, confidence in zip(means.argmax(1).tolist(), means.max(1).tolist(), strict=True):
            self._append(label, confidence)

    def _append(self, label: int, confidence: float) -> None:
        start, stop = self._settled, self._settled + 1
        self._settled = stop
        if self._runs and self._runs[-1].label == label:
            last = self._runs.pop()
            length = last.stop - last.start
            start, confidence = last.start, last.confidence + (confidence - last.confidence) / (length + 1)
        self._runs.append(Run(start, stop, label, confidence))
