"""``python -m benchmarks localisation``: a run that is stopped and goes on, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import localisation
from sfavivit.errors import UsageError
from sfavivit.inference.recognizer import Recognizer
from tests.benchmarks.support import invoke, rows_of
from tests.cli.support import run

KIND = "3-8 s two objects"


def test_a_run_goes_on_and_its_files_are_those_of_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    options = ("--kind", KIND, "--seconds", "14", "--folder", str(work), "--out", str(tmp_path))
    assert invoke("localisation", "--videos", "1", *options).exit_code == 0
    kept = (work / "3-8_s_two_objects.jsonl").read_text()
    classified: list[str] = []
    classify = Recognizer.classify

    def counted(self: Recognizer, video: Path) -> object:
        classified.append(video.name)
        return classify(self, video)

    monkeypatch.setattr(Recognizer, "classify", counted)
    assert invoke("localisation", "--videos", "2", *options).exit_code == 0
    assert classified == ["3-8_s_two_objects_0001.mp4"]
    assert (work / "3-8_s_two_objects.jsonl").read_text().startswith(kept)

    (row,) = rows_of(tmp_path, "localisation")
    assert (row.case["kind"], row.case["videos"]) == (KIND, 2)
    files = (work / "3-8_s_two_objects.jsonl", work / "3-8_s_two_objects_truth.json")
    again = json.loads(run("evaluate", *files, "--json").stdout)
    assert row.figures["mAP@0.3"].median == pytest.approx(again["map"]["0.3"], rel=1e-5)
    called = row.figures["background called an action"].median
    assert called == pytest.approx(again["background_as_action"], rel=1e-5)
    assert called > 0, "the demo model calls everything an action"

    refused = invoke("localisation", "--development", *options)
    assert isinstance(refused.exception, UsageError)
    assert "--folder" in str(refused.exception)


def test_an_unknown_kind() -> None:
    with pytest.raises(UsageError, match="3-8 s with rests"):
        localisation.command(kinds=["long"])
