"""``python -m benchmarks outliers``: int8 features of models with outlier channels, in both bases."""

from __future__ import annotations

from benchmarks import outliers


def test_every_model_in_both_bases() -> None:
    """The smallest model is too narrow to gain; that turning helps is tested in test_rotation."""
    rows = outliers.measure("tiny", 2, 2)
    cases = [(row.case["model"], row.case["basis"]) for row in rows]
    assert cases == [(model, basis) for model in outliers.MODELS for basis in ("as trained", "turned")]
    errors = [row.figures["feature error"].samples for row in rows]
    assert all(1e-6 < error < 0.01 for samples in errors for error in samples)
    plain, outlying = errors[0], errors[2]
    assert plain[0] == plain[1], "nothing is drawn for it"
    assert outlying[0] != outlying[1], "each round has channels of its own"
    assert plain != errors[1], "the bases differ"
