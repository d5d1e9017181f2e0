"""``python -m benchmarks precision``: the demo model with fewer bits."""

from __future__ import annotations

from pathlib import Path

from benchmarks import machine, precision


def test_every_precision_answers_and_int8_is_not_exact(tmp_path: Path) -> None:
    judged: list[int] = []
    rows = precision.measure(machine.ROOT / "model_repository", ("int8",), 2, tmp_path, judged.append)
    assert judged == [1, 2]
    figures = {str(row.case["precision"]): row.figures for row in rows}
    assert figures["fp32"]["same top-1"].samples == (100.0,)
    assert figures["fp32"]["least feature cosine"].median > 0.999999
    assert 0.999 < figures["int8"]["least feature cosine"].median < 0.99999
