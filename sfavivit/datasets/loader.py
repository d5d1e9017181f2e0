"""Loading of a list of videos as items with unique ids."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from sfavivit.datasets.delimited import path_rows
from sfavivit.datasets.fetch import fetched, scheme_of
from sfavivit.datasets.folder import VIDEO_EXTENSIONS, Note, VideoFolder, folder_rows
from sfavivit.datasets.formats import SPLIT_NAMES, Format, find_format
from sfavivit.datasets.item import VideoItem
from sfavivit.datasets.lines import Rows
from sfavivit.datasets.tables import READERS
from sfavivit.errors import AnnotationError, UsageError, VideoError
from sfavivit.utils.network import masked_url

STDIN = "-"
MAX_FETCHED_BYTES = 1 << 30
_SPLIT_COLUMNS = ("split", "subset")


@dataclass(frozen=True)
class _Table:
    """Rows of a list, with names for error messages.

    Attributes:
        name: name of the source.
        unit: unit that the rows' numbers count, such as lines.
        folder: folder that relative paths start from.
        rows: numbers and fields of the rows.
    """

    name: str
    unit: str
    folder: str | Path
    rows: Rows

    def where(self, number: int) -> str:
        return f"{self.name} {self.unit} {number}"


def _no_note(_: str) -> None:
    pass


def read_items(
    source: str, *, root: str | Path | None = None, split: str | None = None, note: Note = _no_note
) -> list[VideoItem]:
    """Read the videos of a list, in its order.

    An id that the list does not give is the video as the list names it, with ``@start-end`` for a segment.

    Args:
        source: a CSV, TSV, text, JSON Lines, JSON or Parquet file, or its URL, with a column ``video`` and
            optionally ``label`` (or ``verb``, ``noun``), ``start_seconds``, ``end_seconds`` and ``id``, or
            in a format of :mod:`sfavivit.datasets.formats` or :mod:`sfavivit.datasets.delimited`; a folder,
            for all videos below it; or ``-`` for paths on standard input.
        root: folder or URL that relative paths start from; by default that of the list, or the working
            directory for ``-``.
        split: value of the column ``split`` that rows must have, such as ``train``, ``val`` or ``test``.
        note: takes a line that counts the files of a folder that are left out, if there are any.

    Raises:
        AnnotationError: there is no such list, its format is unknown, or a row is invalid.
        UsageError: a Parquet file without pyarrow, or a URL without fsspec.
    """
    return [item for _, item in _read(source, root, split, note)]


def read_splits(source: str, *, root: str | Path | None = None) -> dict[str | None, list[VideoItem]]:
    """Read the videos of a list by split; ``{None: all}`` without a column ``split``.

    Other names in use for ``train`` and ``val``, such as ``training``, become these. Raises as
    ``read_items``; since ids are unique, a video cannot be in two splits.
    """
    splits: dict[str | None, list[VideoItem]] = {}
    for split, item in _read(source, root):
        splits.setdefault(split, []).append(item)
    return splits


def _read(
    source: str, root: str | Path | None, wanted_split: str | None = None, note: Note = _no_note
) -> Iterator[tuple[str | None, VideoItem]]:
    """Yield the split and the item of each row."""
    numbers: dict[str, int] = {}
    with _open(source, note) as table:
        list_format, column, rows = _recognised(table)
        if wanted_split is not None:
            rows = _of_split(rows, column, wanted_split, table.name)
        folder = VideoFolder(table.folder if root is None or os.path.isdir(source) else root)  # noqa: PTH112
        for number, row in rows:
            try:
                item = list_format.item(row, folder)
            except KeyError as error:
                raise AnnotationError(f"{table.where(number)} has no {error.args[0]!r}") from None
            except (ValueError, UsageError) as error:
                raise AnnotationError(f"{table.where(number)}: {error}") from None
            if (earlier := numbers.setdefault(item.id, number)) != number:
                raise AnnotationError(
                    f"{table.where(number)} has the id of {table.unit} {earlier}, {item.id!r:.200}; "
                    "remove one, or give each an id of its own"
                )
            yield _split_name(row.get(column)) if column else None, item


@contextmanager
def _open(source: str, note: Note) -> Iterator[_Table]:
    name = repr(masked_url(source))
    if source == STDIN:
        yield _Table("standard input", "line", Path.cwd(), path_rows(sys.stdin.buffer, "standard input"))
    elif os.path.isdir(source):  # noqa: PTH112 - never raises, whatever the name
        yield _Table(name, "file", Path(source), folder_rows(source, note))
    else:
        remote = scheme_of(source) is not None
        address = source.partition("?")[0] if remote else source  # a URL may be signed
        path = Path(address)
        if path.suffix.lower() not in READERS:
            hint = ": it is a video" if path.suffix.lower() in VIDEO_EXTENSIONS else ""
            known = ", ".join(READERS)
            raise AnnotationError(
                f"{name} is no list of videos{hint}; give a folder, a file ending in {known}, "
                "or - for paths on standard input"
            )
        reader, unit = READERS[path.suffix.lower()]
        folder = address[: address.rindex("/") + 1] if remote else path.parent
        with _fetched(source) if remote else _opened(source) as stream:
            yield _Table(name, unit, folder, reader(stream, name))


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(f"{path!r} cannot be read: {reason}") from None


def _fetched(url: str) -> BinaryIO:
    try:
        return os.fdopen(fetched(url, MAX_FETCHED_BYTES).descriptor, "rb")
    except VideoError as error:
        raise AnnotationError(str(error)) from None


def _recognised(table: _Table) -> tuple[Format, str | None, Rows]:
    """Return the format of a table and its split column, by its first row, and all rows."""
    first = next(table.rows, None)
    if first is None:
        raise AnnotationError(f"{table.name} lists no videos")
    number, row = first
    list_format = find_format(row)
    if list_format is None:
        columns = ", ".join(map(repr, row))
        raise AnnotationError(
            f"{table.where(number)}: a list of videos has a column 'video'; the columns are {columns:.200}"
        )
    column = next((column for column in _SPLIT_COLUMNS if column in row), None)
    return list_format, column, chain([first], table.rows)


def _of_split(rows: Rows, column: str | None, split: str, name: str) -> Rows:
    if column is None:
        raise AnnotationError(f"{name} does not say what split its videos belong to; ask for no split")
    wanted, found_any = _split_name(split), False
    seen: set[str] = set()
    for number, row in rows:
        found = str(row.get(column) or "")
        seen.add(found[:20])
        if _split_name(found) == wanted:
            found_any = True
            yield number, row
    if not found_any:
        raise AnnotationError(f"{name} has no videos of split {split!r}; it has {sorted(seen)!r:.200}")


def _split_name(value: object) -> str:
    name = str(value or "").strip().lower()
    return SPLIT_NAMES.get(name, name)
