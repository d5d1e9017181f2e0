"""The README: its size, links, figures and the example in Python."""

from __future__ import annotations

import json
import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, README, ROOT, blocks, links, tables

UNITS = {"s": ("s", "s/video"), "MiB": ("MiB",)}


def test_it_is_short() -> None:
    assert len(README.read_bytes()) <= 8192


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_the_example_in_python_prints_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = blocks(README)
    (position,) = (number for number, block in enumerate(found) if block.language == "python")
    output = StringIO()
    with redirect_stdout(output):
        exec(found[position].text, {})
    assert output.getvalue() == found[position + 1].text


def test_figures_are_those_of_committed_results() -> None:
    """Every time and memory in the tables is the rounded median of a result linked above its table."""
    section = README.read_text().split("## Measured\n")[1].split("\n## ")[0]
    results = re.findall(r"\((benchmarks/results/\w+\.json)\)", section)
    medians = [
        (figure["unit"], figure["median"])
        for result in results
        for row in json.loads((ROOT / result).read_text())["rows"]
        for figure in row["figures"].values()
    ]
    measured = [table for table in tables(README) if table[0][0] == "Implementation"]
    assert len(measured) == 3
    for header, *rows in measured:
        assert header in (
            ["Implementation", "Precision", "Time"],
            ["Implementation", "Precision", "Time", "Memory"],
        )
        assert 1 <= len(rows) <= 5
        for cell in (cell for row in rows for cell in row[2:]):
            number, unit = cell.split()
            decimals = len(number.partition(".")[2])
            assert any(
                round(median, decimals) == float(number) for of, median in medians if of in UNITS[unit]
            ), f"{cell} is in none of {', '.join(results)}"


def test_it_names_no_path_of_a_machine() -> None:
    assert not re.search(r"/(root|work|tmp|home)/", README.read_text()), os.fspath(README)
