"""Exports of segments, read back by programs that are not ours: ffmpeg, csv, json."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.errors import UsageError
from sfavivit.reports.export import CSV_COLUMNS, check_export, vtt, write_export
from sfavivit.reports.files import write_file
from sfavivit.video.ffmpeg import find_ffmpeg
from tests.reports.support import FAILED, report_of

HOSTILE = ["a --> b & <i>c</i>", "new\nline\n\n00:00:09,000 --> 00:00:10,000", "=1+2", "@SUM(A1)", 'q"u,o;te']


def cues_by_ffmpeg(file: Path) -> list[tuple[str, str, str]]:
    """(start, end, text) of every cue, as ffmpeg understands the file and writes it again."""
    command = [find_ffmpeg().path, "-v", "warning", "-i", str(file), "-f", "srt", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    text = done.stdout.decode().replace("\r", "")
    found = re.findall(r"\d+\n(\S+) --> (\S+)\n(.*?)\n\n(?=\d+\n\S+ -->|\Z)", text, re.DOTALL)
    return [(start, end, body) for start, end, body in found]


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_subtitles(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    write_export(file, [report_of(["walk", "run"])])
    assert cues_by_ffmpeg(file) == [
        ("00:00:00,000", "00:00:01,500", "walk (75%)"),
        ("00:00:01,500", "00:00:03,000", "run (75%)"),
    ]


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_no_label_can_end_or_add_a_cue(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    write_export(file, [report_of(HOSTILE)])
    cues = cues_by_ffmpeg(file)
    assert [start for start, _, _ in cues] == [f"00:00:0{k * 1.5:.3f}".replace(".", ",") for k in range(5)]
    alike = cues[0][2].translate({ord("‹"): "<", ord("›"): ">"})
    assert alike == "a --> b & <i>c</i> (75%)"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_webvtt_grammar(labels: list[str]) -> None:
    """W3C's: header, then blocks of a timing line and one text line without '-->' or a bare '<' or '&'."""
    header, *blocks = vtt(report_of(labels)).rstrip("\n").split("\n\n")
    assert header == "WEBVTT" and len(blocks) == len(labels)
    for block in blocks:
        timing, text = block.split("\n")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}", timing)
        assert "-->" not in text and not re.search(r"<|&(?!(amp|lt|gt);)", text)


def test_cues_of_several_outputs_are_in_order_and_say_which(tmp_path: Path) -> None:
    write_export(tmp_path / "a.vtt", [report_of(["x", "y"], outputs=["verb", "noun"])])
    texts = [text for _, _, text in cues_by_ffmpeg(tmp_path / "a.vtt")]
    assert texts == ["h / verb: x (75%)", "h / noun: x (75%)", "h / verb: y (75%)", "h / noun: y (75%)"]


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    write_export(file, [report_of(HOSTILE, video='b,"c".mp4'), FAILED, report_of(["d"], outputs=["verb"])])
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    assert tuple(header) == CSV_COLUMNS
    assert [row[5] for row in rows] == [*HOSTILE[:2], "'=1+2", "'@SUM(A1)", HOSTILE[4], "d"]
    assert rows[1] == ['b,"c".mp4', "h", "", "1.500", "3.000", HOSTILE[1], "0.750000"]
    assert rows[-1][:3] == ["v.mp4", "h", "verb"]


def test_activitynet_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_export(file, [report_of(HOSTILE), FAILED, report_of(["d"], "w.mp4", outputs=["verb", "noun"])])
    document = json.loads(file.read_text())
    assert set(document) == {"version", "results", "external_data"}
    assert set(document["results"]) == {"v.mp4", "w.mp4"}
    detections = document["results"]["v.mp4"]
    assert [detection["label"] for detection in detections] == HOSTILE
    assert detections[1] == {"label": HOSTILE[1], "score": 0.75, "segment": [1.5, 3.0]}
    assert [detection["output"] for detection in document["results"]["w.mp4"]] == ["verb", "noun"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    for suffix in (".csv", ".json", ".srt", ".vtt"):
        write_export(tmp_path / f"a{suffix}", [report_of(["x"], video=os.fsdecode(b"\xff.mp4"))])
    assert "ff.mp4" in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "circle.csv").symlink_to(tmp_path / "circle.csv")
    for name, message in {
        "a.txt": "ends in .srt, .vtt, .csv, .json",
        "folder.csv": "not a file",
        "pipe.csv": "not a file",
        "no/such/a.csv": "No such file or directory",
        "circle.csv": "symbolic links",
        "a\0.csv": "null byte",
        "n" * 300 + ".csv": "File name too long",
    }.items():
        with pytest.raises(UsageError, match=message):
            check_export(tmp_path / name, 1)
    with pytest.raises(UsageError, match="subtitles are of one video, got 2"):
        check_export(tmp_path / "a.srt", 2)
    check_export(tmp_path / "a.srt", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle.csv", "folder.csv", "pipe.csv"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_bytes(b"old")
    link = tmp_path / "link.csv"
    link.symlink_to(target)
    write_file(link, b"new")
    assert target.read_bytes() == b"new" and link.is_symlink()
    assert not stat.S_IMODE(target.stat().st_mode) & 0o111
    target.unlink()
    target.mkdir()
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        write_file(target, b"newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "link.csv"]
