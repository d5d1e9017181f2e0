"""Text made safe for terminals, log lines and CSV files."""

from __future__ import annotations

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def plain_text(value: str) -> str:
    """A name or label as a field of a CSV file.

    One that a spreadsheet would take for a formula (it starts with ``= + - @``, a tab or a line break) gets a
    leading apostrophe, which spreadsheets take as "this is text" (OWASP, "CSV Injection").
    """
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def printable(text: str) -> str:
    """One safe line: file names may hold line breaks and terminal control sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
