"""Window arithmetic and timelines, against the plainest possible definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.inference.windows import (
    PADDING,
    TimelineBuilder,
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


@given(window_shapes(), st.integers(0, 2**32 - 1))
def test_timeline_is_the_mean_over_covering_windows(shape: tuple[int, int, int], seed: int) -> None:
    total, length, stride = shape
    windows = all_windows(total, length, stride)
    scores = np.random.default_rng(seed).dirichlet(np.ones(3), len(windows))
    builder = TimelineBuilder(3)
    for window, score in zip(windows, scores, strict=True):
        builder.add(window, score)
    runs = builder.finish()

    means = [
        np.mean([s for w, s in zip(windows, scores, strict=True) if w.start <= i < w.stop], axis=0)
        for i in range(total)
    ]
    labels = [label for run in runs for label in [run.label] * (run.stop - run.start)]
    assert labels == [int(mean.argmax()) for mean in means]
    assert [run.start for run in runs[1:]] == [run.stop for run in runs[:-1]]
    assert all(a.label != b.label for a, b in pairwise(runs))
    for run in runs:
        expected = np.mean([means[i].max() for i in range(run.start, run.stop)])
        assert run.confidence == pytest.approx(expected)
