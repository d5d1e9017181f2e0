"""Window arithmetic and timelines, against the plainest possible definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.inference.windows import (
    PADDING,
    Window,
    all_windows,
    complete_windows,
    tail_window,
)

LENGTHS = st.integers(1, 20)


@st.composite
def window_shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    """(total, length, stride) with stride at most length."""
    length = draw(LENGTHS)
    return draw(st.integers(0, 100)), length, draw(st.integers(1, length))


def test_the_picture_in_the_docstring() -> None:
    assert all_windows(9, 4, 2) == [Window(0, 4), Window(2, 6), Window(4, 8), Window(5, 9)]


@given(window_shapes())
def test_every_tubelet_is_covered_and_windows_are_in_order(shape: tuple[int, int, int]) -> None:
    total, length, stride = shape
    windows = all_windows(total, length, stride)
    assert {i for window in windows for i in range(*window)} == set(range(total))
    assert windows == sorted(set(windows))
    assert all(window.stop - window.start == min(length, total) for window in windows)
    assert all(window.start % stride == 0 for window in windows[:-1])


@given(window_shapes(), st.lists(st.integers(1, 9)))
def test_arriving_in_portions_gives_the_same_windows(
    shape: tuple[int, int, int], portions: list[int]
) -> None:
    total, length, stride = shape
    seen: list[Window] = []
    available = 0
    for portion in [*portions, total]:
        available = min(total, available + portion)
        new = complete_windows(len(seen), available, length, stride)
        assert all(window.stop <= available for window in new)
        seen += new
    tail = tail_window(total, length, stride)
    assert seen + ([tail] if tail else []) == all_windows(total, length, stride)


@given(st.integers(1, 9), st.integers(9, 30))
def test_padding_loop_repeats_and_none_leaves(count: int, length: int) -> None:
    features = np.arange(count, dtype=np.float32)[:, None]
    assert PADDING["loop"](features, length)[:, 0].tolist() == [i % count for i in range(length)]
    assert PADDING["none"](features, length) is features
