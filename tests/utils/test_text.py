"""Times as text."""

from __future__ import annotations

import pytest

from sfavivit.utils.text import clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (59.96, "1:00.0"), (61.5, "1:01.5"), (3599.99, "1:00:00.0"), (7325.25, "2:02:05.2")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
