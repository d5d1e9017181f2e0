"""Lists of videos: our own manifests, the datasets' published formats, and what is wrong with wrong ones."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sfavivit.datasets import VideoItem, read_items
from sfavivit.datasets.lines import MAX_LINE_BYTES
from sfavivit.errors import AnnotationError, VideoNotFoundError, codes_of

PUBLISHED = Path(__file__).parent / "published"


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def message(source: str, **options: Any) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_items(source, **options)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    assert len(text) < 1000
    assert codes_of(caught.value).exit_code == 2
    return text


# Our own manifests ------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"video": "a.mp4", "label": "air drumming", "start_seconds": None, "end_seconds": None, "id": None},
    {"video": "b c.mp4", "label": None, "start_seconds": 1.5, "end_seconds": 3.25, "id": None},
    {"video": "/abs/d.mkv", "label": "7", "start_seconds": 4.0, "end_seconds": None, "id": "four"},
    {"video": "s3://bucket/e.mp4", "label": "x, y", "start_seconds": None, "end_seconds": 2.0, "id": None},
]


def expected(root: Path) -> list[VideoItem]:
    return [
        VideoItem("a.mp4", f"{root}/a.mp4", {"": "air drumming"}),
        VideoItem("b c.mp4@1.5-3.25", f"{root}/b c.mp4", {}, 1.5, 3.25),
        VideoItem("four", "/abs/d.mkv", {"": "7"}, 4.0),
        VideoItem("s3://bucket/e.mp4@0-2", "s3://bucket/e.mp4", {"": "x, y"}, 0.0, 2.0),
    ]


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def as_json_lines(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in ROWS))


def as_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def as_parquet(path: Path) -> None:
    table = pa.Table.from_pylist([{**row, "pixels": b"\0" * 100} for row in ROWS])
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("l.csv", as_csv),
        ("l.jsonl", as_json_lines),
        ("l.NDJSON", as_json_lines),
        ("l.json", as_json),
        ("l.parquet", as_parquet),
    ],
)
def test_manifests_say_the_same_in_every_format(tmp_path: Path, name: str, save: Any) -> None:
    save(tmp_path / name)
    assert read_items(str(tmp_path / name)) == expected(tmp_path)
    assert read_items(str(tmp_path / name), root=tmp_path / "other") == expected(tmp_path / "other")


def test_verb_and_noun_are_names_or_class_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "l.jsonl", '{"video": "a.mp4", "verb": 3, "noun": "door", "unknown": [1]}')
    assert read_items(file)[0].labels == {"verb": 3, "noun": "door"}
    file = write(tmp_path / "l.csv", "verb,video,noun\n,a.mp4,4\n")
    assert read_items(file)[0].labels == {"noun": "4"}


def test_relative_lists_give_absolute_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "l.csv", "video\na.mp4\n")
    monkeypatch.chdir(tmp_path)
    assert [item.video for item in read_items("l.csv")] == [f"{tmp_path}/a.mp4"]
    assert [item.video for item in read_items("l.csv", root=Path("x"))] == [f"{tmp_path}/x/a.mp4"]


def test_paths_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"a.mp4\n\n b,1.mp4 \r\n/abs/c.mp4"))
    monkeypatch.setattr("sys.stdin", lines)
    monkeypatch.chdir(tmp_path)
    items = read_items("-")
    assert [item.video for item in items] == [f"{tmp_path}/a.mp4", f"{tmp_path}/ b,1.mp4 ", "/abs/c.mp4"]
    assert [item.id for item in items] == ["a.mp4", " b,1.mp4 ", "/abs/c.mp4"]


def test_split_takes_its_rows_only(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", "video,split\na.mp4,train\nb.mp4,validation\nc.mp4,val\n")
    assert [item.id for item in read_items(file, split="Val")] == ["b.mp4", "c.mp4"]
    assert "['train', 'val', 'validation']" in message(file, split="test")
    file = write(tmp_path / "m.csv", "video\na.mp4\n")
    assert "does not say what split" in message(file, split="test")


# The published formats ----------------------------------------------------------------------------------


def published(name: str, root: Path, **options: Any) -> list[tuple[str, str, dict[str, Any], float, Any]]:
    items = read_items(str(PUBLISHED / name), root=root, **options)
    return [
        (item.id, item.video.removeprefix(f"{root}/"), item.labels, item.start_seconds, item.end_seconds)
        for item in items
    ]


def test_kinetics_csv_finds_clips_wherever_people_keep_them(tmp_path: Path) -> None:
    clip = "-aBcDeFgHi0_000020_000030"
    wanted = (clip, {"": "abseiling"}, 0.0, None)
    places = [f"{clip}.mp4", f"abseiling/{clip}.mp4", f"val/{clip}.mp4", f"val/abseiling/{clip}.mp4"]
    for place in reversed(places):
        touch(tmp_path, place)
        name, video, *rest = published("kinetics_val.csv", tmp_path)[0]
        assert (name, *rest) == wanted
        assert video == place
    touch(tmp_path, "air_drumming/zYxWvUtSrQ1_000000_000010.mp4")
    assert published("kinetics_val.csv", tmp_path)[1][1] == "air_drumming/zYxWvUtSrQ1_000000_000010.mp4"


def test_kinetics_takes_the_part_of_a_whole_video(tmp_path: Path) -> None:
    touch(tmp_path, "petting animal (not cat)/_1234567890.mp4")
    assert published("kinetics_val.csv", tmp_path, split="train") == [
        (
            "_1234567890_000104_000114",
            "petting animal (not cat)/_1234567890.mp4",
            {"": "petting animal (not cat)"},
            104.0,
            114.0,
        )
    ]


@pytest.mark.parametrize("split", ["val", "validate", "validation"])
@pytest.mark.parametrize("folder", ["val", "validate", "validation"])
def test_kinetics_has_three_names_for_validation(tmp_path: Path, split: str, folder: str) -> None:
    file = write(tmp_path / "l.csv", f"label,youtube_id,time_start,time_end,split\nx y,abc,1,2,{split}\n")
    touch(tmp_path, f"{folder}/x_y/abc_000001_000002.mp4")
    assert read_items(file)[0].video == f"{tmp_path}/{folder}/x_y/abc_000001_000002.mp4"


def test_clips_have_any_extension_and_their_own_first(tmp_path: Path) -> None:
    clip = "-aBcDeFgHi0_000020_000030"
    for extension in ("txt", "webm", "mkv", "MP4", "mp4"):
        touch(tmp_path, f"val/{clip}.{extension}", f"._{clip}.mp4")
        found = published("kinetics_val.csv", tmp_path)[0][1]
        wanted = {"txt": f"{clip}.mp4", "webm": f"val/{clip}.webm"}.get(extension, f"val/{clip}.{extension}")
        assert found == wanted
    touch(tmp_path, "11.mp4")
    assert published("ssv2_validation.json", tmp_path)[0][1] == "11.mp4"
    touch(tmp_path, "11.webm")
    assert published("ssv2_validation.json", tmp_path)[0][1] == "11.webm"


def test_a_missing_clip_names_all_places(tmp_path: Path) -> None:
    item = read_items(str(PUBLISHED / "kinetics_val.json"), root=tmp_path)[0]
    with pytest.raises(VideoNotFoundError) as caught:
        item.open(1)
    files = "'-aBcDeFgHi0_000020_000030.*' and '-aBcDeFgHi0.*'"
    splits = ["", "validate/", "val/", "validation/"]
    places = ", ".join(f"'{tmp_path}/{split}{label}'" for split in splits for label in ("", "abseiling/"))
    assert str(caught.value) == f"{item.video!r}: no such file; looked for {files} in {places}"
    touch(tmp_path, f"{item.id}.mp4")
    assert item.open(1) == item.video
    for name in ("epic100_test.csv", "ssv2_test.json", "moments_validation.csv"):
        with pytest.raises(VideoNotFoundError, match="looked for"):
            read_items(str(PUBLISHED / name), root=tmp_path)[0].open(1)


def test_kinetics_names_the_clip_it_looked_for(tmp_path: Path) -> None:
    assert published("kinetics_test.csv", tmp_path) == [
        ("-aBcDeFgHi0_000020_000030", "-aBcDeFgHi0_000020_000030.mp4", {}, 0.0, None)
    ]


def test_kinetics_json(tmp_path: Path) -> None:
    touch(tmp_path, "validate/-aBcDeFgHi0_000020_000030.mp4")
    clip = "-aBcDeFgHi0_000020_000030"
    row = (clip, f"validate/{clip}.mp4", {"": "abseiling"}, 0.0, None)
    assert published("kinetics_val.json", tmp_path) == [
        row,
        ("zYxWvUtSrQ1_000000_000010", "zYxWvUtSrQ1_000000_000010.mp4", {}, 0.0, None),
    ]
    assert published("kinetics_val.json", tmp_path, split="val") == [row]


def test_moments_in_time(tmp_path: Path) -> None:
    touch(tmp_path, "validation/opening/yt-aBcDeFgHiJk_205.mp4")
    first = "juggling/club-in-the-park-id001_4.mp4"
    second = "opening/yt-aBcDeFgHiJk_205.mp4"
    assert published("moments_validation.csv", tmp_path) == [
        (first, first, {"": "juggling"}, 0.0, None),
        (second, f"validation/{second}", {"": "opening"}, 0.0, None),
    ]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("ssv2_validation.json", {"11": "Holding something", "12": "Moving part of something"}),
        ("ssv2_test.json", {"21": None, "22": None}),
        (
            "ssv2_test_answers.csv",
            {"21": "Holding something", "22": "Putting something, something and something on the table"},
        ),
        ("something_else_5shot.json", {"31": "Twisting something"}),
    ],
)
def test_something_something_and_something_else(
    tmp_path: Path, name: str, labels: dict[str, str | None]
) -> None:
    touch(tmp_path, "20bn-something-something-v2/12.webm")
    rows = published(name, tmp_path)
    assert {row[0]: row[2].get("") for row in rows} == labels
    folder = {"12": "20bn-something-something-v2/"}
    assert [row[1] for row in rows] == [f"{folder.get(number, '')}{number}.webm" for number in labels]


EPIC = {
    "epic55_train.csv": [
        ("6", "P01/videos/P01_01.MP4", {"verb": 3, "noun": 8}, 1.5, 3.25),
        ("7", "P02/videos/P02_03.MP4", {"verb": 4, "noun": 2}, 23 * 60 + 43.847, 23 * 60 + 47.212),
    ],
    "epic55_test.csv": [("1924", "P01/videos/P01_11.MP4", {}, 0.0, 1.89)],
    "epic100_validation.csv": [
        ("P01_11_0", "P01/videos/P01_11.MP4", {"verb": 0, "noun": 2}, 0.0, 1.89),
        ("P26_102_7", "P26/videos/P26_102.MP4", {"verb": 79, "noun": 5}, 3601.5, 3604.75),
    ],
    "epic100_test.csv": [("P01_101_0", "P01/videos/P01_101.MP4", {}, 2.86, 3.87)],
}


@pytest.mark.parametrize("name", EPIC)
def test_epic_kitchens(tmp_path: Path, name: str) -> None:
    assert published(name, tmp_path) == EPIC[name]


@pytest.mark.parametrize(
    "place",
    ["P01/videos/P01_11.MP4", "P01/P01_11.MP4", "P01_11.MP4", "videos/test/P01/P01_11.MP4", "P01_11.mp4"],
)
def test_epic_kitchens_finds_videos(tmp_path: Path, place: str) -> None:
    touch(tmp_path, place)
    assert published("epic100_validation.csv", tmp_path)[0][1] == place


def test_published_files_beside_their_videos_need_no_root(tmp_path: Path) -> None:
    shutil.copy(PUBLISHED / "ssv2_validation.json", tmp_path)
    assert read_items(str(tmp_path / "ssv2_validation.json"))[0].video == f"{tmp_path}/11.webm"


# What is wrong ----------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, str | bytes, list[str]]] = {
    "no end": (
        "l.csv",
        "video,start_seconds,end_seconds\na,1,2\nb,5,3\n",
        ["line 3", "after the start (5 s), got 3"],
    ),
    "nan": ("l.csv", "video,start_seconds\na,nan\n", ["line 2", "got nan"]),
    "infinite": ("l.jsonl", '{"video": "a", "end_seconds": Infinity}', ["line 1", "got inf"]),
    "negative": ("l.json", '[{"video": "a", "start_seconds": -1}]', ["entry 1", "got -1"]),
    "huge number": ("l.json", f'[{{"video": "a", "end_seconds": {"9" * 400}}}]', ["entry 1", "999"]),
    "no number": ("l.csv", "video,start_seconds\na,1.0.0\n", ["line 2", "start_seconds", "'1.0.0'"]),
    "truth": ("l.jsonl", '{"video": "a", "start_seconds": true}', ["start_seconds", "True"]),
    "twice": ("l.csv", "video\na\nb\n\na\n", ["line 5", "line 2", "'a'"]),
    "same id": ("l.csv", "video,id\na,x\nb,x\n", ["line 3", "line 2", "'x'"]),
    "no video": ("l.csv", "video,label\n,x\n", ["line 2", "video must be given"]),
    "number for video": ("l.jsonl", '{"video": [1]}', ["line 1", "[1]"]),
    "label list": ("l.jsonl", '{"video": "a", "label": ["x"]}', ["line 1", "label", "['x']"]),
    "null character": ("l.csv", "video\na\0b\n", ["line 2", "null"]),
    "null escape": ("l.jsonl", '{"video": "a\\u0000b"}', ["line 1", "video"]),
    "half character": ("l.jsonl", '{"video": "a", "label": "\\ud800"}', ["line 1", "label"]),
    "latin 1": ("l.csv", "video\nok\nm\xfcll.mp4\n".encode("latin-1"), ["line 3", "UTF-8", "byte 1"]),
    "utf 16": ("l.csv", "video\na\n".encode("utf-16"), ["line 1", "UTF-8"]),
    "huge line": ("l.csv", b"video\n" + b"a" * (MAX_LINE_BYTES + 1), ["line 2", str(MAX_LINE_BYTES)]),
    "huge field": ("l.csv", b"video\n" + b"a" * 200_000, ["line 2", "field"]),
    "endless quote": ("l.csv", 'video\n"a\n' + "b\n" * 100_000, ["line 2", "quotes"]),
    "loose quote": ("l.csv", 'video,label\n"a"b,c\n', ["line 2", "quotes"]),
    "ragged": ("l.csv", "video,label\na,b\nc,d,e\n", ["line 3", "3 fields instead of 2"]),
    "after a long field": ("l.csv", 'video,label\n"a\nb",c\nd\n', ["line 4", "1 fields"]),
    "column twice": ("l.csv", "video,label,label\na,b,c\n", ["line 1", "'label'", "twice"]),
    "other columns": ("l.csv", "path,label\na,b\n", ["'video'", "'path', 'label'"]),
    "empty": ("l.csv", "", ["no videos"]),
    "header only": ("l.csv", "video,label\n", ["no videos"]),
    "no json": ("l.jsonl", '{"video": "a"}\n{"video": \n', ["line 2", "not JSON"]),
    "json lines in json": ("l.json", '{"video": "a"}\n{"video": "b"}\n', ["not JSON", ".jsonl"]),
    "deep json": ("l.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
    "json number": ("l.json", "7", ["7", "array"]),
    "json array line": ("l.jsonl", '["a.mp4"]', ["line 1", "['a.mp4']"]),
    "label names": ("l.json", '{"Holding something": "0"}', ["entry 1", "Holding something", "'0'"]),
    "changing keys": ("l.jsonl", '{"video": "a"}\n{"path": "b"}', ["line 2", "video"]),
    "no parquet": ("l.parquet", b"PAR1 and so on", ["row 0", "Parquet"]),
    "video": ("l.mp4", b"", ["it is a video", ".csv"]),
    "unknown": ("l.xlsx", b"", ["no list of videos", ".csv"]),
    "epic time": (
        "l.csv",
        "uid,participant_id,video_id,start_timestamp,stop_timestamp\n1,P01,P01_01,00:00:01,1.5\n",
        ["line 2", "stop_timestamp", "'1.5'"],
    ),
    "epic class": (
        "l.csv",
        "uid,participant_id,video_id,start_timestamp,stop_timestamp,verb_class\n1,P,P_1,0:00:01,0:00:02,x\n",
        ["line 2", "verb_class", "'x'"],
    ),
    "kinetics time": ("l.csv", "label,youtube_id,time_start,time_end\nx,y,30,20\n", ["line 2", "got 20"]),
    "kinetics nothing": ("l.csv", "label,youtube_id,time_start,time_end\nx,y,30,\n", ["line 2", "time_end"]),
    "kinetics segment": ("l.json", '{"y": {"annotations": {"segment": [1]}}}', ["entry 1", "[1]"]),
    "kinetics keys": (
        "l.json",
        '{"y": {"annotations": {"segment": [1, 2]}}, "z": {"label": 1}}',
        ["entry 2", "'annotations'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_says_what_is_wrong_where(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    text = message(write(tmp_path / name, content))
    assert str(tmp_path / name) in text
    assert not [word for word in words if word not in text], text


def test_parquet_with_nan_and_wrong_types(tmp_path: Path) -> None:
    file = str(tmp_path / "l.parquet")
    parquet.write_table(pa.table({"video": ["a", "b"], "start_seconds": [0.0, math.nan]}), file)
    assert "row 2" in message(file)
    parquet.write_table(pa.table({"video": [1.5]}), file)
    assert "row 1: video must be given" in message(file)
    parquet.write_table(pa.table({"video": [b"\xff"]}), file)
    assert "'video'" in message(file)


def test_lists_that_are_not_there(tmp_path: Path) -> None:
    assert "No such file" in message(str(tmp_path / "none.csv"))
    assert "null" in message("a\0.csv")
    assert "lists no videos" in message(str(tmp_path))
