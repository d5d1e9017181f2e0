"""Lines of text files from elsewhere, checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from sfavivit.errors import AnnotationError

Row = dict[str, Any]
"""{column: value}: text from CSV, any JSON value from other files."""
Rows = Iterator[tuple[int, Row]]
"""Pairs of (number of the line, entry or row, as people count it; the row)."""

MAX_LINE_BYTES = 1 << 20


def text_lines(stream: BinaryIO, name: str) -> Iterator[str]:
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
