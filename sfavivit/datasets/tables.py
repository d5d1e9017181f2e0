"""Readers of rows from files: a number and the fields of one video."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, BinaryIO

from sfavivit.datasets.delimited import delimited_rows
from sfavivit.datasets.lines import Row, Rows, text_lines
from sfavivit.errors import AnnotationError
from sfavivit.extras import needs_extra

MAX_DOCUMENT_BYTES = 1 << 29  # JSON is parsed as a whole; the file of Kinetics-700 has 140 MB


def json_lines_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a JSON Lines file: one object per line."""
    for number, line in enumerate(text_lines(stream, name), 1):
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
        return json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        hint = "; a file of one object a line is named .jsonl" if "Extra data" in str(error) else ""
        raise AnnotationError(f"{where} is not JSON: {error}{hint}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a key that stands twice is a ``ValueError``."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice")
    return found


def _json_object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise AnnotationError(f'{where} is {value!r:.80}; give an object such as {{"video": "a.mp4"}}')
    return value


def parquet_rows(stream: BinaryIO, name: str) -> Rows:
    """Yield the rows of a Parquet file. Raises ``UsageError`` when pyarrow is not installed."""
    with needs_extra(f"{name}: a Parquet file", "score"):
        import pyarrow as pa  # noqa: PLC0415 - heavy, and for Parquet only
        from pyarrow import parquet  # noqa: PLC0415
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
    ".csv": (delimited_rows, "line"),
    ".tsv": (delimited_rows, "line"),
    ".txt": (delimited_rows, "line"),
    ".json": (json_rows, "entry"),
    ".jsonl": (json_lines_rows, "line"),
    ".ndjson": (json_lines_rows, "line"),
    ".parquet": (parquet_rows, "row"),
}
"""{extension: (reader, unit that its numbers count)}"""
