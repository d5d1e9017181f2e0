"""``python -m benchmarks stills``: a recorded screen, with every call computed or only those that change."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import stills
from tests.benchmarks.support import rows_of


def test_slides_are_still_and_their_features_the_same(tmp_path: Path) -> None:
    stills.command(20.0, 5.0, rounds=1, size="tiny", out=tmp_path)
    every, moving = (row.figures for row in rows_of(tmp_path, "stills"))
    assert 0.5 < every["still"].median < 1
    ratio = every["time"].median / moving["time"].median
    assert moving["times faster"].median == pytest.approx(ratio, rel=1e-4)
