"""``sfavivit evaluate`` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from sfavivit.scoring.parquet_parts import ROWS_FOLDER, write_part
from sfavivit.scoring.rows import SCHEMA, Row
from tests.cli.support import run, run_process

TRUTH = """video,label,start_seconds,end_seconds
a.mp4,run,0,4
a.mp4,sit,4,8
b.mp4,run,1,5
"""


def segment(start: float, end: float, label: str, confidence: float = 0.5) -> dict[str, object]:
    return {"start_seconds": start, "end_seconds": end, "label": label, "confidence": confidence}


TIMELINE = [segment(0, 4, "run"), segment(4, 8, "sit"), segment(8, 10, "fly", 0.1)]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    (tmp_path / "truth.csv").write_text(TRUTH)
    return tmp_path / "truth.csv"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    answers = {"clips/a.mp4": TIMELINE, "clips/c.mp4": []}
    path = tmp_path / "answers.jsonl"
    path.write_text(
        "".join(
            json.dumps({"video": video, "duration_seconds": 10, "heads": {"h": {"": {"timeline": timeline}}}})
            + "\n"
            for video, timeline in answers.items()
        )
    )
    return path


def test_figures_and_videos_of_one_side_only(lines: Path, truth: Path) -> None:
    done = run("evaluate", lines, truth, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["videos"] == {"evaluated": 2, "only_in_predictions": 1, "only_in_truth": 1}
    assert found["map"]["0.5"] == found["mean_map"]["0.3:0.7"] == 0.75
    assert found["per_class"]["run"] == {
        "true_segments": 2,
        "predicted_segments": 1,
        "ap": dict.fromkeys(found["map"], 0.5),
    }
    assert found["f1"]["0.5"] == pytest.approx(2 / 3)
    assert found["edit"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["frame_accuracy"] == pytest.approx((8 + 1) / (10 + 5))
    assert found["background_as_action"] == pytest.approx(2 / 3)
    assert found["unknown_labels"] == {"fly": 1}
    surer = json.loads(run("evaluate", lines, truth, "--json", "--threshold", "0.2").stdout)
    assert surer["background_as_action"] == 0


def test_tables(lines: Path, truth: Path) -> None:
    done = run_process("evaluate", lines, truth, "--per-class")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for words in (
        "videos: 2, classes: 2",
        "1 without predictions, as '",
        "1 that the truth lacks are left out, as 'clips/c.mp4'",
        "1 predictions have labels that the truth lacks, as 'fly'",
        "mAP 75.0% 75.0% 75.0% 75.0% 75.0% 75.0% 75.0%",
        "66.7% 66.7% 66.7% 33.3% 60.0% 66.7%",
        "run 2 1 50.0%",
    ):
        assert words in text


def test_the_rows_of_score(tmp_path: Path, truth: Path, lines: Path) -> None:
    """Rows of segments of one video belong together; a video may be called by its path or by its id."""

    def row(name: str, video: str, timeline: list[dict[str, object]], head: str = "h") -> Row:
        return {"id": name, "video": video, "head": head, "output": "", "timeline": timeline}

    folder = tmp_path / "scores"
    (folder / ROWS_FOLDER).mkdir(parents=True)
    rows = [
        row("a.mp4@0-4", "/data/a.mp4", TIMELINE[:1]),
        row("a.mp4@4-10", "/data/a.mp4", TIMELINE[1:]),
        row(str(tmp_path / "b.mp4"), "/data/another.mp4", [segment(1, 5, "run")]),
        row("a.mp4@0-4", "/data/a.mp4", [], head="other"),
    ]
    write_part(folder / ROWS_FOLDER / "part-1of1-000001.parquet", pa.Table.from_pylist(rows, SCHEMA))
    done = run("evaluate", folder, truth, "--json", "--head", "h")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["map"]["0.95"] == 1
    assert found["videos"]["only_in_truth"] == 0
    assert found["background_as_action"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        ("answers.jsonl --head none", "--head and --output"),
        ("nothing.json", "nothing.json' cannot be read"),
        ("answers.jsonl --subset test", "does not say what split"),
        ("answers.jsonl --frames-per-second 0", "frames per second"),
        (".", "no rows of `sfavivit score`"),
    ],
)
def test_wrong_use(predictions: str, words: str, truth: Path, lines: Path) -> None:
    name, *options = predictions.split()
    done = run("evaluate", lines.parent / name, truth, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
