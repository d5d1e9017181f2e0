"""Timelines from window scores, against their definition by brute force."""

from __future__ import annotations

from itertools import pairwise, product
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfavivit.inference import timeline
from sfavivit.inference.timeline import Run, TimelineBuilder
from sfavivit.inference.windows import Window, all_windows, default_stride

Scores = NDArray[np.float64]


def build(windows: dict[int, list[tuple[Window, Scores]]], cost: float = 0.0) -> list[Run]:
    """The runs of windows that arrive as a video's do: each as soon as its last tubelet has."""
    builder = TimelineBuilder(3, list(windows), cost)
    arriving = [
        (window.stop, length, window, score) for length, ws in windows.items() for window, score in ws
    ]
    for _, length, window, score in sorted(arriving, key=lambda item: item[:3]):
        builder.add(length, window, score)
    return builder.finish()


def draw_windows(total: int, lengths: list[int], seed: int) -> dict[int, list[tuple[Window, Scores]]]:
    rng = np.random.default_rng(seed)
    return {
        length: [(w, rng.dirichlet(np.ones(3))) for w in all_windows(total, length, default_stride(length))]
        for length in lengths
    }


def fused(windows: dict[int, list[tuple[Window, Scores]]], total: int) -> Scores:
    """Scores [total, C] by definition."""
    means = [
        [np.mean([s for w, s in ws if w.start <= i < w.stop], axis=0) for ws in windows.values()]
        for i in range(total)
    ]
    return np.asarray(np.mean(means, axis=1))


def labels_of(runs: list[Run]) -> list[int]:
    return [run.label for run in runs for _ in range(run.start, run.stop)]


@given(
    st.integers(1, 60), st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True), st.integers(0, 999)
)
def test_without_a_cost_every_tubelet_has_its_largest_mean(total: int, lengths: list[int], seed: int) -> None:
    windows = draw_windows(total, lengths, seed)
    means, runs = fused(windows, total), build(windows)
    assert labels_of(runs) == means.argmax(1).tolist()
    assert [run.start for run in runs[1:]] == [run.stop for run in runs[:-1]]
    assert all(a.label != b.label for a, b in pairwise(runs))
    for run in runs:
        assert run.confidence == pytest.approx(means[run.start : run.stop, run.label].mean())


def worth(labels: Any, means: Scores, cost: float) -> float:
    changes = sum(a != b for a, b in pairwise(labels))
    return float(sum(log(means[i, label]) for i, label in enumerate(labels)) - cost * changes)


@given(st.integers(1, 7), st.floats(0.01, 3), st.integers(0, 999))
def test_with_a_cost_no_other_labels_are_worth_more(total: int, cost: float, seed: int) -> None:
    windows = draw_windows(total, [1, 2], seed)
    means = fused(windows, total)
    found = labels_of(build(windows, cost))
    assert len(found) == total
    best = max(worth(labels, means, cost) for labels in product(range(3), repeat=total))
    assert worth(found, means, cost) == pytest.approx(best)


@given(st.integers(0, 999), st.integers(4, 40))
def test_labels_are_settled_after_a_while_without_a_break(seed: int, most: int) -> None:
    """However few tubelets may be open, all have a label, and a long stretch of one class is one run."""
    rng = np.random.default_rng(seed)
    means = np.repeat(rng.permutation(np.eye(3)) * 0.8 + 0.05, 60, axis=0) + rng.uniform(0, 0.1, (180, 3))
    windows = {1: [(Window(i, i + 1), row / row.sum()) for i, row in enumerate(means)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "_MAX_OPEN_TUBELETS", most)
        runs = build(windows, 2.0)
    assert labels_of(runs) == labels_of(build(windows, 2.0)) == means.argmax(1).tolist()
    assert [(run.start, run.stop) for run in runs] == [(0, 60), (60, 120), (120, 180)]
