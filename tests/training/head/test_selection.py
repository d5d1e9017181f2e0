"""Selection of tubelets against the best choice, and a head on part of a window."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import build_model
from training.head.config import Selector
from training.head.selection import SELECTORS, even_tubelets, novel_tubelets, selected_logits


def radius(features: torch.Tensor, chosen: list[int]) -> float:
    """Return the largest distance of a tubelet [T, D] from its nearest chosen one."""
    distances = np.linalg.norm(features.numpy()[:, None] - features.numpy()[None, chosen], axis=2)
    return float(distances.min(1).max())


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4))
def test_no_choice_covers_a_window_twice_as_well(seed: int, tubelets: int, count: int) -> None:
    features = torch.randn(1, tubelets, 3, generator=torch.Generator().manual_seed(seed))
    chosen = novel_tubelets(features, count)[0].tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, tubelets)
    best = min(radius(features[0], list(others)) for others in combinations(range(tubelets), len(chosen)))
    assert radius(features[0], chosen) <= 2 * best + 1e-6


def test_the_rare_is_kept() -> None:
    """One flash in a still video, and a tubelet of nothing is not taken twice."""
    features = torch.zeros(2, 30, 4)
    features[0, 17], features[1, 3] = 1.0, -1.0
    chosen = novel_tubelets(features, 3)
    assert 17 in chosen[0]
    assert 3 in chosen[1]
    assert all(len(set(row)) == 3 for row in chosen.tolist())


def test_even_spacing() -> None:
    assert even_tubelets(torch.zeros(2, 8, 1), 4).tolist() == [[1, 3, 5, 7]] * 2
    assert even_tubelets(torch.zeros(1, 3, 1), 9).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("selector", SELECTORS)
def test_all_tubelets_are_the_whole_window(selector: Selector) -> None:
    temporal = build_model({"verb": 5, "noun": 3}).temporal
    features = torch.randn(3, 7, 32)
    expected = temporal(features)
    found = selected_logits(temporal, features, SELECTORS[selector](features, 99))
    for output, logits in expected.items():
        torch.testing.assert_close(found[output], logits)


def test_what_is_left_out_does_not_count_and_what_is_kept_has_its_place() -> None:
    temporal = build_model().temporal
    features, chosen = torch.randn(1, 8, 32), torch.tensor([[2, 5]])
    expected = selected_logits(temporal, features, chosen)[""]
    other = features.clone()
    other[:, [0, 1, 3, 4, 6, 7]] = 9.0
    torch.testing.assert_close(selected_logits(temporal, other, chosen)[""], expected)
    moved = features[:, [0, 2, 1, 3, 4, 5, 6, 7]]
    assert not torch.allclose(selected_logits(temporal, moved, torch.tensor([[1, 5]]))[""], expected)
