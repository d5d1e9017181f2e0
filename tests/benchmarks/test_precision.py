"""``python -m benchmarks precision``: the demo model with fewer bits."""

from __future__ import annotations

from pathlib import Path

from benchmarks import figures, precision


def test_every_precision_answers_and_int8_is_not_exact(tmp_path: Path) -> None:
    judged: list[int] = []
    rows = precision.measure(figures.ROOT / "model_repository", ("int8",), 2, tmp_path, judged.append)
    assert judged == [1, 2]
    by_precision = {str(row.case["precision"]): row.figures for row in rows}
    assert by_precision["fp32"]["same top-1"].samples == (100.0,)
    assert by_precision["fp32"]["min feature cosine"].median > 0.999999
    assert 0.999 < by_precision["int8"]["min feature cosine"].median < 0.99999
