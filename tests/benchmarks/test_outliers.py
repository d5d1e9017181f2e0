"""``python -m benchmarks outliers``: int8 features of models with outlier channels, in every way."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from benchmarks import outliers
from tests.benchmarks.support import rows_of


def test_every_model_in_every_way(tmp_path: Path) -> None:
    """The smallest model is too narrow to gain from rotation; that it helps is tested in test_rotation."""
    outliers.command("tiny", 2, 2, tmp_path)
    rows = rows_of(tmp_path, "outliers")
    settings = ("model", "frames", "basis", "weights")
    cases = [tuple(row.case[name] for name in settings) for row in rows]
    groups = product(outliers.MODELS, ("video", "noise, gradient"))
    assert cases == [(*group, *way) for group in groups for way in outliers.WAYS]
    errors = {case: row.figures["feature error"].samples for case, row in zip(cases, rows, strict=True)}
    assert all(1e-6 < error < 0.02 for samples in errors.values() for error in samples)
    plain, outlying = (errors[model, "video", "as trained", "rounded"] for model in outliers.MODELS[:2])
    assert plain[0] == plain[1], "nothing is drawn for it"
    assert outlying[0] != outlying[1], "each round has channels of its own"
    for model in outliers.MODELS:
        rounded, calibrated = (errors[model, "video", "rotated", kind] for kind in ("rounded", "calibrated"))
        assert calibrated[0] < rounded[0]
