"""Readers of rows from files, folders and standard input: a number and the fields of one video."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from sfavivit.errors import AnnotationError, UsageError

Row = dict[str, Any]
"""{column: value}: text from CSV, any JSON value from other files."""
Rows = Iterator[tuple[int, Row]]
"""Pairs of (number of the line, entry or row, as people count it; the row)."""

MAX_LINE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 29  # JSON is parsed as a whole; the file of Kinetics-700 has 140 MB

# Containers that the decoder reads, by their usual extensions.
VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"}
    | {".ogv", ".ts", ".webm", ".wmv"}
)

# Two published formats have no header: the answers of Something-Something v2's test set (`id;label`), and
# Moments in Time (path, label, workers who agreed, workers who did not).
_ANSWERS = re.compile(r"\d+;[^;]+\s*", re.ASCII)
_ANSWERS_HEADER = ["id", "template"]
_MOMENTS_HEADER = ["path", "label", "agree", "disagree"]


def folder_rows(folder: str) -> Rows:
    """Yield the video files below a folder, as {"video": relative path}, sorted.

    Raises:
        AnnotationError: a folder cannot be read, or the name of a file is not UTF-8.
    """

    def fail(error: OSError) -> None:
        raise AnnotationError(f"{error.filename!r} cannot be read: {error.strerror}; change its permissions")

    found = []
    for directory, _, files in os.walk(folder, onerror=fail):
        found += [Path(directory, name) for name in files if Path(name).suffix.lower() in VIDEO_EXTENSIONS]
    for number, file in enumerate(sorted(path.relative_to(folder).as_posix() for path in found), 1):
        if not is_unicode(file):
            raise AnnotationError(f"{folder!r}: the name of file {file!r} is not UTF-8; rename the file")
        yield number, {"video": file}


def path_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield paths, one per line, as {"video": path}."""
    for number, line in enumerate(_text_lines(stream, name), 1):
        if path := line.rstrip("\r\n"):
            yield number, {"video": path}


def csv_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a CSV file with a header, or in one of the two published formats without one."""
    lines = _text_lines(stream, name)
    first = next(lines, "")
    answers = _ANSWERS.fullmatch(first) is not None
    dialect: dict[str, Any] = {"delimiter": ";", "quoting": csv.QUOTE_NONE} if answers else {"strict": True}
    reader = csv.reader(chain([first], lines), **dialect)
    header = _ANSWERS_HEADER if answers else []
    number = 1
    try:
        for fields in reader:
            if not header and fields:
                header = _header(fields, name)
                fields = fields if header is _MOMENTS_HEADER else []  # noqa: PLW2901 - the header is no row
            if fields and len(fields) != len(header):
                raise AnnotationError(
                    f"{name} line {number} has {len(fields)} fields instead of {len(header)}; "
                    "put fields that contain the separator in double quotes"
                )
            if fields:
                yield number, dict(zip(header, fields, strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(f"{name} line {number} is not CSV: {error}; check its quotes") from None


def _header(fields: list[str], name: str) -> list[str]:
    if len(fields) == len(_MOMENTS_HEADER) and fields[2].isdigit() and fields[3].isdigit():
        return _MOMENTS_HEADER
    header = [field.strip() for field in fields]
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise AnnotationError(f"{name} line 1 names column {twice!r} twice; rename one")
    return header


def json_lines_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a JSON Lines file: one object per line."""
    for number, line in enumerate(_text_lines(stream, name), 1):
        if text := line.strip():
            where = f"{name} line {number}"
            yield number, _json_object(_json_value(text, where), where)


def json_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the entries of a JSON file: an array of objects, or Kinetics' objects by ``youtube_id``."""
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise AnnotationError(
            f"{name} has more than {MAX_DOCUMENT_BYTES >> 20} MiB; give JSON Lines, an object a line"
        )
    document = _json_value(content, name)
    if isinstance(document, dict):
        for number, (key, value) in enumerate(document.items(), 1):
            yield number, {**_json_object(value, f"{name} entry {number} ({key!r:.80})"), "youtube_id": key}
    elif isinstance(document, list):
        for number, value in enumerate(document, 1):
            yield number, _json_object(value, f"{name} entry {number}")
    else:
        raise AnnotationError(f"{name} holds {document!r:.80}; give an array of objects")


def _json_value(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "; a file of one object a line is named .jsonl" if "Extra data" in str(error) else ""
        raise AnnotationError(f"{where} is not JSON: {error}{hint}") from None


def _json_object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise AnnotationError(f'{where} is {value!r:.80}; give an object such as {{"video": "a.mp4"}}')
    return value


def parquet_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a Parquet file. Raises ``UsageError`` when pyarrow is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - heavy, and for Parquet only
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UsageError(f"{name}: Parquet needs pyarrow; install 'sfavivit[score]'") from None
    number = 0
    try:
        table = parquet.ParquetFile(stream)
        # The file may also hold videos and other bulk, which is not read.
        bulk = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
        columns = [field.name for field in table.schema_arrow if not any(is_(field.type) for is_ in bulk)]
        for batch in table.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise AnnotationError(f"{name} cannot be read as Parquet after row {number}: {reason}") from None


READERS: dict[str, tuple[Callable[[BinaryIO, str], Rows], str]] = {
    ".csv": (csv_rows, "line"),
    ".json": (json_rows, "entry"),
    ".jsonl": (json_lines_rows, "line"),
    ".ndjson": (json_lines_rows, "line"),
    ".parquet": (parquet_rows, "row"),
}
"""{extension: (reader, unit that its numbers count)}"""


def _text_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the lines of UTF-8 text, with their ends; raises for null characters and oversized lines."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise AnnotationError(
                f"{name} line {number} has more than {MAX_LINE_BYTES} bytes; is it a list of videos?"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise AnnotationError(
                f"{name} line {number} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
            ) from None
        if "\0" in text:
            raise AnnotationError(f"{name} line {number} has a null character; is it a list of videos?")
        yield text


def is_unicode(text: str) -> bool:
    """Return whether text has no lone surrogates, as undecodable file names and JSON escapes can have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
