"""``python -m benchmarks precision``: the demo model with fewer bits."""

from __future__ import annotations

from pathlib import Path

from benchmarks import precision
from tests.benchmarks.support import rows_of


def test_every_precision_answers_and_int8_is_not_exact(tmp_path: Path) -> None:
    precision.command(videos=2, out=tmp_path)
    figures = {str(row.case["precision"]): row.figures for row in rows_of(tmp_path, "precision")}
    assert list(figures) == ["fp32", "fp16", "int8"]
    assert figures["fp32"]["same top-1"].samples == (100.0,)
    assert figures["fp32"]["min feature cosine"].median > 0.999999
    assert 0.999 < figures["int8"]["min feature cosine"].median < 0.99999
