"""Packages that are missing."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sfavivit.errors import EngineError, UsageError
from sfavivit.extras import needs_extra
from sfavivit.reports.request import ReportRequest


def test_one_line_names_the_package_and_the_command() -> None:
    with (
        pytest.raises(EngineError, match=r"^a peer needs no_such: pip install 'sfavivit\[bench\]'$"),
        needs_extra("a peer", "bench", EngineError),
    ):
        import_module("no_such.module")


@pytest.mark.parametrize(
    ("option", "file", "module"), [("plot", "a.png", "matplotlib.figure"), ("report", "a.html", "PIL.Image")]
)
def test_a_report_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str, file: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    request: dict[str, Any] = {option: tmp_path / file}
    package = module.partition(".")[0]
    with pytest.raises(UsageError, match=rf"^--{option} needs {package}: pip install 'sfavivit\[score\]'$"):
        ReportRequest(**request).check(1)
