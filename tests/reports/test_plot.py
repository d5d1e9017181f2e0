"""The picture of timelines, by its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfavivit.reports import plot
from sfavivit.reports.plot import PALETTE, write_plot
from tests.reports.support import FAILED, report_of


def test_plot_shows_each_lane_where_its_label_wins(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_plot(file, [report_of(["walk", "$run$", "駆ける"]), FAILED])
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    centres = []
    for colour in PALETTE[:3]:
        red_green_blue = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        down, right = np.nonzero(np.abs(picture - red_green_blue).sum(-1) <= 6)
        assert len(down) > 1000, colour
        centres.append((down.mean(), right.mean()))
    assert sorted(centres) == centres, "lanes go down"
    assert [right for _, right in centres] == sorted(right for _, right in centres), "and time goes right"


def test_plot_of_none_and_of_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plot(tmp_path / "a.png", [FAILED])
    assert not (tmp_path / "a.png").exists()
    monkeypatch.setattr(plot, "MAX_TIMELINES", 2)
    write_plot(tmp_path / "a.svg", [report_of(["x"])] * 5)
    assert "3 more timelines are not shown" in (tmp_path / "a.svg").read_text()
