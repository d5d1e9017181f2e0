"""``python -m benchmarks stills``: a recorded screen, every call computed or only those in which it moves."""

from __future__ import annotations

from pathlib import Path

from benchmarks import figures, stills


def test_slides_are_still_and_their_features_the_same(tmp_path: Path) -> None:
    rows = stills.measure(figures.ROOT / "model_repository", tmp_path, 20.0, 5.0, 1)
    every, moving = (row.figures for row in rows)
    assert 0.5 < every["still"].median < 1
    assert moving["times faster"].median == every["time"].median / moving["time"].median
