"""Text made safe for terminals, log lines and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from sfavivit.utils.network import masked_text

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
MAX_MESSAGE_CHARACTERS = 300


def plain_text(value: str) -> str:
    """Return a name or label as a field of a CSV file, which a spreadsheet does not take for a formula.

    A value that starts with ``= + - @``, a tab or a line break gets a leading apostrophe, which spreadsheets
    take as "this is text" (OWASP, "CSV Injection").
    """
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def printable(text: str) -> str:
    """Escape what is not printable: file names may hold line breaks and terminal control sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(value: object, max_characters: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return the text of ``value``, such as an error of another library, as one line of limited length."""
    return " ".join(str(value).split())[:max_characters]


def error_line(error: BaseException, max_characters: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return ``Type: message`` of an unforeseen error as one line of limited length, URLs masked."""
    return one_line(masked_text(f"{type(error).__name__}: {error}"), max_characters)


def clock(seconds: float) -> str:
    """Format a time as ``m:ss.s``, or ``h:mm:ss.s`` from one hour on."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV (RFC 4180)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def output_title(head: str, output: str) -> str:
    """Return the name to show for an output of a head; the only output of a head has no name of its own."""
    return f"{head} / {output}" if output else head
