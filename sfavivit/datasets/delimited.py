"""Lists as text: a table with a header, or lines of a path and a label, whatever separates the fields.

The first line tells which: a header has no video's extension.

    video,label,start_seconds     header; its columns are separated by the only one of  , ; tab  that it has
    my dance/a.mp4 3              path and label, separated by spaces, a tab, a comma or a semicolon
    my dance/a.mp4                path, which ends where a separator or nothing follows its extension
    "odd.mp4 name" 3              path in double quotes: whatever these hold

A line that could be read in two ways is an error. Spaces after a separator belong to no field, unless the
field is in double quotes.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from sfavivit.datasets.folder import VIDEO_EXTENSIONS
from sfavivit.datasets.lines import Rows, text_lines
from sfavivit.errors import AnnotationError

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", " ": "spaces"}
_QUOTE = re.compile(r'"(?:[^"]|"")*"?')
_EXTENSIONS = "|".join(map(re.escape, sorted(VIDEO_EXTENSIONS, key=len, reverse=True)))
_EXTENSION = re.compile(rf"(?:{_EXTENSIONS})\b", re.IGNORECASE)
_PATH_END = re.compile(rf"(?:{_EXTENSIONS})(?=[,;\t ]|$)", re.IGNORECASE)
_SEPARATOR = re.compile(r" *([,;\t]) *| +")

# Two published formats have no header: the answers of Something-Something v2's test set (`id;label`), and
# Moments in Time (path, label, workers who agreed, workers who did not).
_ANSWERS = re.compile(r"\d+;[^;]+", re.ASCII)
_ANSWERS_HEADER = ["id", "template"]
_FIELD = r'(?:[^,"]*|"(?:[^"]|"")*")'
_MOMENTS = re.compile(rf"{_FIELD},{_FIELD},\d+,\d+\s*", re.ASCII)
_MOMENTS_HEADER = ["path", "label", "agree", "disagree"]


def path_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield paths, one per line, as {"video": path}."""
    for number, line in enumerate(text_lines(stream, name), 1):
        if path := line.rstrip("\r\n"):
            yield number, {"video": path}


def delimited_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a table with a header, of a published one without, or of lines of paths and labels.

    Raises:
        AnnotationError: a line is invalid, or could be read in two ways.
    """
    lines = text_lines(stream, name)
    number, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (1, ""))
    rest = chain([first], lines)
    if _ANSWERS.fullmatch(first):
        yield from _table_rows(rest, name, number, _ANSWERS_HEADER, delimiter=";", quoting=csv.QUOTE_NONE)
    elif _MOMENTS.fullmatch(first):
        yield from _table_rows(rest, name, number, _MOMENTS_HEADER, strict=True)
    elif _EXTENSION.search(first):  # which no name of a column has
        yield from _labelled_rows(rest, name, number)
    else:
        separator = _header_separator(first, f"{name} line {number}")
        yield from _table_rows(
            rest, name, number, [], delimiter=separator, strict=True, skipinitialspace=True
        )


def _header_separator(first: str, where: str) -> str:
    """Return what separates the columns of a header; the comma where there is one column only."""
    unquoted = _QUOTE.sub("", first).strip(" \r\n")
    found = [separator for separator in ",;\t" if separator in unquoted]
    if len(found) > 1:
        raise AnnotationError(
            f"{where} has {' and '.join(_SEPARATORS[separator] for separator in found)}: one separates the "
            "columns; put columns that contain another in double quotes"
        )
    return found[0] if found else ","


def _table_rows(lines: Iterator[str], name: str, first: int, header: list[str], **dialect: Any) -> Rows:
    """Yield the rows of a table from line ``first`` on; its first row is the header if that is empty."""
    reader = csv.reader(lines, **dialect)
    number = first
    try:
        for fields in reader:
            if fields and not header:
                header = _header(fields, f"{name} line {number}")
            elif fields and len(fields) != len(header):
                raise AnnotationError(
                    f"{name} line {number} has {len(fields)} fields instead of {len(header)}; "
                    "put fields that contain the separator in double quotes"
                )
            elif fields:
                yield number, dict(zip(header, fields, strict=True))
            number = first + reader.line_num
    except csv.Error as error:
        raise AnnotationError(f"{name} line {number} is not CSV: {error}; check its quotes") from None


def _header(fields: list[str], where: str) -> list[str]:
    header = [field.strip() for field in fields]
    column, times = Counter(header).most_common(1)[0]
    if times > 1:
        raise AnnotationError(f"{where} names column {column!r:.80} twice; rename one")
    return header


def _path_ends(line: str) -> list[int]:
    """Return the places where the path of a line could end: after its quotes, and after an extension."""
    if not line.startswith('"'):
        return [match.end() for match in _PATH_END.finditer(line)]
    quoted = _QUOTE.match(line)
    end = quoted.end() if quoted else 0
    if not _is_quoted(line[:end]) or line[end : end + 1] not in ("", *_SEPARATORS):
        return []
    return [end, *(match.end() for match in _PATH_END.finditer(line, end) if '"' not in line[end:])]


def _labelled_rows(lines: Iterator[str], name: str, first: int) -> Rows:
    """Yield {"video": path, "label": label} of lines that are alike: all with one separator, or all paths."""
    style: str | None = None
    for number, line in enumerate(lines, first):
        text, where = line.strip(" \r\n"), f"{name} line {number}"
        if not text:
            continue
        path, separator, label = _split(text, where)
        style = separator if style is None else style
        if separator != style:
            this, other = (_SEPARATORS.get(found, "nothing") for found in (separator, style))
            raise AnnotationError(
                f"{where} has {this} after the path, line {first} has {other}; make them alike"
            )
        yield number, {"video": path, "label": label} if separator else {"video": path}


def _split(text: str, where: str) -> tuple[str, str, str]:
    """Return path, separator (one character; "" where the path is all) and label of a line."""
    ends = _path_ends(text)
    if len(ends) != 1:
        places = " or ".join(repr(text[:end][-40:]) for end in ends[:3])
        what = f"could end its path after {places}" if ends else f"has no path of a video: {text!r:.200}"
        raise AnnotationError(f"{where} {what}; put the path in double quotes, or give a table with a header")
    path, rest = text[: ends[0]], text[ends[0] :]
    if _is_quoted(path):
        path = _unquoted(path)
    elif separators := [name for mark, name in _SEPARATORS.items() if mark in path and mark != " "]:
        raise AnnotationError(f"{where}: path {path!r:.200} has {separators[0]}; put it in double quotes")
    match = _SEPARATOR.match(rest)
    if not match:
        return path, "", ""
    label, separator = rest[match.end() :], match[1] or " "
    if _is_quoted(label):
        return path, separator, _unquoted(label)
    fields = label.split(None if separator == " " else separator)
    # Names of classes have spaces; several numbers are several classes, or the number of frames and a class.
    if len(fields) > 1 and (separator != " " or all(field.isdigit() for field in fields)):
        raise AnnotationError(
            f"{where} has {len(fields) + 1} fields instead of a path and a label: {text!r:.200}; "
            "put a label that contains the separator in double quotes"
        )
    return path, separator, label


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"' and _QUOTE.fullmatch(text) is not None


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"')
