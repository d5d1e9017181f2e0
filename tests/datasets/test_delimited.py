"""Lists as text: what separates their fields, paths with anything in them, and what could mean two things."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfavivit.datasets import read_items
from sfavivit.datasets.delimited import delimited_rows
from sfavivit.datasets.lines import Row
from sfavivit.datasets.tables import json_lines_rows, json_rows
from sfavivit.errors import AnnotationError

Pairs = list[tuple[str, str]]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1)
# Characters that could be taken for a separator, a quote or an end of a path, more often than by chance.
TRICKY = st.lists(st.sampled_from([" ", ",", ";", "\t", '"', ".mp4", ".ts", "a", "3", "/"]), max_size=8)
FIELD = (TEXT | TRICKY.map("".join)).filter(str.strip)
PAIRS = st.lists(st.tuples(FIELD.map("{}.mp4".format), FIELD), min_size=1, max_size=5)


def read(text: str) -> list[Row]:
    return [row for _, row in delimited_rows(io.BytesIO(text.encode()), "l")]


def table(rows: Pairs, delimiter: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("video", "label"), *rows])
    return stream.getvalue()


def quoted_lines(rows: Pairs, separator: str) -> str:
    quoted = [[field.replace('"', '""') for field in row] for row in rows]
    return "".join(f'"{path}"{separator}"{label}"\n' for path, label in quoted)


def from_json(rows: Pairs, lines: bool) -> list[Row]:
    values = [{"video": path, "label": label} for path, label in rows]
    text = "\n".join(map(json.dumps, values)) if lines else json.dumps(values)
    reader = json_lines_rows if lines else json_rows
    return [row for _, row in reader(io.BytesIO(text.encode()), "l")]


FORMS: dict[str, Callable[[Pairs], list[Row]]] = {
    "jsonl": partial(from_json, lines=True),
    "json": partial(from_json, lines=False),
    **{f"table {mark!r}": lambda rows, mark=mark: read(table(rows, mark)) for mark in ",;\t"},  # type: ignore[misc]
    **{
        f"lines {mark!r}": lambda rows, mark=mark: read(quoted_lines(rows, mark))  # type: ignore[misc]
        for mark in (" ", ",", ";", "\t", "  ", ", ", " ; ")
    },
}


@pytest.mark.parametrize("form", FORMS)
@given(PAIRS)
def test_a_list_says_the_same_in_every_form(form: str, rows: Pairs) -> None:
    assert [(row["video"], row["label"]) for row in FORMS[form](rows)] == rows


@given(st.lists(st.tuples(TEXT, FIELD, FIELD), min_size=1, max_size=3), st.sampled_from([",", ";", "\t"]))
def test_numbers_of_rows_are_those_of_lines(rows: list[tuple[str, str, str]], mark: str) -> None:
    stream = io.StringIO()
    csv.writer(stream, delimiter=mark, quoting=csv.QUOTE_ALL).writerows([("video", "label", "id"), *rows])
    numbers = [number for number, _ in delimited_rows(io.BytesIO(stream.getvalue().encode()), "l")]
    assert numbers == list(range(2, len(rows) + 2))


@given(TRICKY.map("".join).filter(str.strip), st.sampled_from([" ", ", ", ";", "\t"]))
@example('"" ', " ")
@example('"b" ', " ")
def test_an_unquoted_line_is_read_right_or_refused(stem: str, mark: str) -> None:
    """Whatever a path holds, a list is never split at another place in silence."""
    path = f"{stem}.mp4".lstrip()
    try:
        rows = read(f"a.mp4{mark}3\n{path}{mark}7\n")
    except AnnotationError:
        return
    assert rows == [{"video": "a.mp4", "label": "3"}, {"video": path, "label": "7"}]


@given(st.lists(TRICKY.map("".join) | TEXT, max_size=4).map("\n".join))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        rows = read(text)
    except AnnotationError as error:
        assert str(error).startswith("l line ") and "\n" not in str(error)
    else:
        assert all(isinstance(value, str) for row in rows for value in row.values())


LINES: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "spaces": ("a/b.mp4 3\n\nmy dance/c d.webm 10\n", [("a/b.mp4", "3"), ("my dance/c d.webm", "10")]),
    "names": ("a.mp4 air drumming\n", [("a.mp4", "air drumming")]),
    "comma": ("a.mp4,air drumming\r\n/b.MKV,3\r\n", [("a.mp4", "air drumming"), ("/b.MKV", "3")]),
    "comma and space": ("a.mp4, 3\nb.mp4 , 4\n", [("a.mp4", "3"), ("b.mp4", "4")]),
    "semicolon": ("a.mp4;x, y\n", [("a.mp4", "x, y")]),
    "tab": ("a b.mp4\tx\n", [("a b.mp4", "x")]),
    "quoted address": ('"s3://b/a.mp4?x=1" 3\n', [("s3://b/a.mp4?x=1", "3")]),
    "quoted without extension": ('a.mp4 1\n"b c" 3\n', [("a.mp4", "1"), ("b c", "3")]),
    "paths": ("a b.mp4\nc.m2v\n", [("a b.mp4", None), ("c.m2v", None)]),
    "header with semicolons": ("label;video\nx, y;a.mp4\n", [("a.mp4", "x, y")]),
    "header with tabs": ("video\tlabel\na, b.mp4\tx\n", [("a, b.mp4", "x")]),
    "space after a comma": ('label, video\nx, a.mp4\ny,  "b, c.mp4"\n', [("a.mp4", "x"), ("b, c.mp4", "y")]),
    "space in rows only": ("label,video\nx, a.mp4\n", [("a.mp4", "x")]),
    "space in quotes": ('label,video\nx," a.mp4"\n', [(" a.mp4", "x")]),
    "no label": ("a.mp4,x\nb.mp4,\n", [("a.mp4", "x"), ("b.mp4", "")]),
}


@pytest.mark.parametrize("case", LINES)
@pytest.mark.parametrize("extension", [".csv", ".tsv", ".txt"])
def test_lists_as_people_have_them(tmp_path: Path, case: str, extension: str) -> None:
    text, rows = LINES[case]
    (tmp_path / f"l{extension}").write_bytes(text.encode())
    items = read_items(str(tmp_path / f"l{extension}"), root="/")
    wanted = [(video if "://" in video else f"/{video.lstrip('/')}", label or None) for video, label in rows]
    assert [(item.video, item.labels.get("")) for item in items] == wanted


REFUSED = {
    "two ends": (
        "a.mp4 b.mp4 3\n",
        ["line 1", "could end its path after 'a.mp4' or 'a.mp4 b.mp4'", "quotes"],
    ),
    "path or label": ("a.mp4 copy.mp4\n", ["line 1", "could end its path"]),
    "comma or space": ("a.mp4,b.mp4 3\n", ["line 1", "could end its path"]),
    "a folder like a video": ("a.mp4 1\nx.ts y/b.mp4 3\n", ["line 2", "'x.ts' or 'x.ts y/b.mp4'"]),
    "comma in a path": ("a,b.mp4\n", ["line 1", "has a comma", "double quotes"]),
    "mixed": ("a.mp4 1\nb.mp4,2\n", ["line 2", "a comma after the path, line 1 has spaces"]),
    "label missing": ("a.mp4 1\n\nb.mp4\n", ["line 3", "nothing after the path"]),
    "frames and class": ("a.mp4 163 1\n", ["line 1", "3 fields"]),
    "several classes": ("a.mp4,1,2\n", ["line 1", "3 fields"]),
    "no video": ("a.mp4 1\nb 2\n", ["line 2", "no path of a video: 'b 2'"]),
    "open quote": ('a.mp4 1\n"b.mp4 2\n', ["line 2", "no path of a video"]),
    "two separators": ("video,label;x\na,b\n", ["line 1", "a comma and a semicolon"]),
    "no header": ("rawframes/a 163 1\nb 2 3\n", ["'video'", "rawframes/a 163 1"]),
    "address": ("s3://b/a.mp4?x=1 3\n", ["line 1", "no path of a video", "double quotes"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_line_says_what_could_be_meant(tmp_path: Path, case: str) -> None:
    text, words = REFUSED[case]
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(AnnotationError) as caught:
        read_items(str(tmp_path / "l.txt"))
    assert str(caught.value).isprintable()
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
