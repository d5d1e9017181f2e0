"""Results of benchmarks compared, on files that ``report`` wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.compare import Verdict, compare
from benchmarks.figures import ROOT, Better, Figure, Result, Row, dump_result, read_result, report
from sfavivit.errors import UsageError
from tests.benchmarks.support import invoke


def result_of(samples: Sequence[float], better: Better = "lower", **figures: Figure) -> Result:
    row = Row({"size": "B"}, {"time": Figure("s", better, tuple(samples)), **figures})
    return Result("b", "python -m benchmarks b", {"processor": "P", "cores": 2}, (row,))


@pytest.mark.parametrize(
    ("old", "new", "better", "verdict"),
    [
        ([10, 10.1, 10.2, 10.3], [12, 12.1, 12.2, 12.3], "lower", "worse"),
        ([10, 10.1, 10.2, 10.3], [12, 12.1, 12.2, 12.3], "higher", "improved"),
        ([50, 50, 50, 50], [80, 81, 81, 82], "neither", "context"),  # a count of a run of fixed time
        ([10, 10.1, 10.2, 10.3], [10.4, 10.41, 10.42, 10.43], "lower", "same"),  # apart, but by 2.6%
        ([10, 11, 12, 13], [11.5, 12, 12.5, 13.5], "lower", "same"),  # 7%, but p = 0.4
        ([10, 10, 10, 30], [12, 12, 12, 12], "lower", "same"),  # an outlier among four: p = 0.27
        ([10] * 7 + [30], [12] * 8, "lower", "worse"),  # and among eight: p = 0.006
        ([10, 10.5], [11.5, 12], "lower", "worse"),  # too few for the test: ranges
        ([10, 11.5], [11.5, 13], "lower", "same"),  # ranges that touch
        ([10, 11, 12], [13, 14, 15, 16], "lower", "worse"),
        ([10], [9], "lower", "improved"),
        ([0, 0], [0, 0], "lower", "same"),
        ([0, 0], [3, 4], "lower", "worse"),
        ([3, 4], [0, 0], "lower", "improved"),
    ],
)
def test_verdict(old: list[float], new: list[float], better: Better, verdict: Verdict) -> None:
    (change,) = compare(result_of(old, better), result_of(new, better))
    assert change.verdict == verdict
    (back,) = compare(result_of(new, better), result_of(old, better))
    mirrored = {"worse": "improved", "improved": "worse"}
    assert back.verdict == mirrored.get(verdict, verdict)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_nothing_changed_against_itself(samples: list[float]) -> None:
    assert [change.verdict for change in compare(result_of(samples), result_of(samples), 0.0)] == ["same"]


def test_rows_are_matched_by_case_whatever_its_order() -> None:
    figure = {"time": Figure("s", "lower", (1.0,))}
    old = replace(result_of([1]), rows=(Row({"a": 1, "b": "x"}, figure), Row({"a": 2, "b": "x"}, figure)))
    extra = {**figure, "rate": Figure("1/s", "higher", (2.0,))}
    new = replace(result_of([1]), rows=(Row({"b": "y", "a": 1}, figure), Row({"b": "x", "a": 2}, extra)))
    assert [(change.case, change.figure, change.verdict, change.ratio) for change in compare(old, new)] == [
        ({"a": 1, "b": "x"}, "time", "only in old", None),
        ({"a": 2, "b": "x"}, "time", "same", 1.0),
        ({"a": 2, "b": "x"}, "rate", "only in new", None),
        ({"a": 1, "b": "y"}, "time", "only in new", None),
    ]


def test_results_that_cannot_be_compared() -> None:
    one = result_of([1])
    for other, message in [
        (replace(one, benchmark="c"), "a result of 'b' cannot be compared with one of 'c'"),
        (replace(one, rows=(*one.rows, *one.rows)), "the new result has two rows of one case, {'size': 'B'}"),
        (result_of([1], "higher"), "in 's' (lower is better) in the old result, in 's' (higher is better)"),
    ]:
        with pytest.raises(UsageError) as caught:
            compare(one, other)
        assert message in str(caught.value)


def test_a_result_survives_its_file_with_a_figure_a_line(tmp_path: Path) -> None:
    result = result_of([1 / 3, 2.0])
    (tmp_path / "b.json").write_text(dump_result(result))
    assert read_result(tmp_path / "b.json") == result_of([0.333333, 2.0])
    line = '"time": { "unit": "s", "better": "lower", "samples": [ 0.333333, 2.0 ], "median": 1.1666665,'
    assert line in dump_result(result)


@pytest.mark.parametrize("samples", [[], [1, float("nan")], [float("inf")]])
def test_a_figure_has_samples_that_are_numbers(samples: list[float], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        result_of(samples)
    row = {"case": {}, "figures": {"time": {"unit": "s", "better": "lower", "samples": samples}}}
    fields = {"benchmark": "b", "command": "c", "machine": {}, "rows": [row]}
    (tmp_path / "b.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="not a result with figures: rows.0.figures.time.samples"):
        read_result(tmp_path / "b.json")


def test_command(tmp_path: Path) -> None:
    rows = [Row({"size": size}, {"time": Figure("s", "lower", (1.0, 1.1))}) for size in ("tiny", "[red]B")]
    slower = [rows[0], Row(rows[1].case, {"time": Figure("s", "lower", (2.0, 2.1))})]
    for folder, measured in (("old", rows), ("new", slower)):
        report("b", measured, tmp_path / folder, command="python -m benchmarks b")
    old, new = tmp_path / "old" / "b.json", tmp_path / "new" / "b.json"
    fields = json.loads(new.read_text())
    other_machine = {**fields["machine"], "cores": 96, "python": "4.0"}
    (tmp_path / "other.json").write_text(json.dumps({**fields, "machine": other_machine}))

    shown = invoke("compare", old, new)
    assert shown.exit_code == 0
    assert "1 same, 1 worse" in shown.stdout and "[red]B" in shown.stdout and "1.952" in shown.stdout
    assert invoke("compare", old, new, "--fail-on-worse").exit_code == 1
    assert invoke("compare", new, old, "--fail-on-worse").exit_code == 0
    assert invoke("compare", old, new, "--fail-on-worse", "--noise", "1.5").exit_code == 0

    answer = json.loads(invoke("compare", old, tmp_path / "other.json", "--json").stdout)
    assert answer["differences"]["cores"] == [fields["machine"]["cores"], 96]
    assert answer["differences"]["python"] == [fields["machine"]["python"], "4.0"]
    assert "different machines" in answer["warning"]
    assert [change["verdict"] for change in answer["changes"]] == ["same", "worse"]
    assert answer["changes"][1]["case"] == {"size": "[red]B"}
    assert json.loads(invoke("compare", old, new, "--json").stdout)["warning"] is None


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"benchmark": 3}', b"\xff\xfe", b'{"rows": [[]]}'])
def test_bad_files_give_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_result(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_file_ends_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "compare", str(tmp_path / "a.json"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    message = f"error: {tmp_path / 'a.json'}: cannot be read: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, message)
