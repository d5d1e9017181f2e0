"""Arithmetic of windows over tubelets.

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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOWS_PER_LENGTH = 8  # the temporal half is cheap


class Window(NamedTuple):
    """A window of tubelets ``[start, stop)``."""

    start: int
    stop: int


def default_stride(length: int) -> int:
    """Return the tubelets from window to window unless others are asked for: an eighth of the window."""
    return max(1, length // WINDOWS_PER_LENGTH)


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
