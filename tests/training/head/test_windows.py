"""Windows of stored features."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.head.windows import draw_window


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
def test_a_window_is_a_part_of_the_video_over_and_over(
    tubelets: int, length: int, prefix: float, seed: int
) -> None:
    features = np.arange(tubelets, dtype=np.float32)[:, None]
    window = draw_window(features, length, prefix, np.random.default_rng(seed))[:, 0]
    assert len(window) == length
    start, period = int(window[0]), len(set(window.tolist()))
    np.testing.assert_array_equal(window, start + np.arange(length) % period)
    if prefix == 0:
        assert period == min(tubelets, length)
    if tubelets <= length:
        assert start == 0
