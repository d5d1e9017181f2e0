"""A list of videos, from wherever it is, as items with unique ids."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from sfavivit.datasets.fetch import fetched, scheme_of
from sfavivit.datasets.formats import Form, form_of
from sfavivit.datasets.item import VideoFolder, VideoItem
from sfavivit.datasets.tables import READERS, VIDEO_EXTENSIONS, Rows, folder_rows, path_rows
from sfavivit.errors import AnnotationError, UsageError, VideoError

STDIN = "-"
MAX_FETCHED_BYTES = 1 << 30
_SPLIT_COLUMNS = ("split", "subset")
_SPLIT_NAMES = {"training": "train", "validate": "val", "validation": "val"}


@dataclass(frozen=True)
class _Table:
    """Rows, what messages call their source, what their numbers count, and where relative paths start."""

    name: str
    unit: str
    folder: str | Path
    rows: Rows

    def where(self, number: int) -> str:
        return f"{self.name} {self.unit} {number}"


def read_items(source: str, *, root: str | Path | None = None, split: str | None = None) -> list[VideoItem]:
    """The videos that ``source`` lists, in its order.

    ``source``: a CSV, JSON Lines, JSON or Parquet file with a column ``video`` and optionally ``label`` (or
    ``verb``, ``noun``), ``start_seconds``, ``end_seconds`` and ``id``, or as a dataset publishes it (see
    :mod:`sfavivit.datasets.formats`), or the URL of one; a folder, for all videos below it; or ``-`` for
    paths on standard input. Relative videos start from ``root``, by default the folder of the file (of a URL,
    its address), or the working directory for ``-``. ``split``: only rows whose column ``split`` says so,
    such as ``train``, ``val`` or ``test``.

    An id that is not given is the video as the list names it, with ``@start-end`` when it is a part of it.

    Raises:
        AnnotationError: no such list, a form that is not known, or a row that cannot be right.
        UsageError: a Parquet file without pyarrow, a URL without fsspec.
    """
    return [item for _, item in _read(source, root, split)]


def read_splits(source: str, *, root: str | Path | None = None) -> dict[str | None, list[VideoItem]]:
    """The videos of ``source`` by what its column ``split`` says of them, as ``read_items`` reads them all.

    Of the names in use for a split, ``train`` and ``val`` are given; ``{None: all}`` without such a column.

    Raises:
        AnnotationError, UsageError: as ``read_items``; so a video cannot be in two splits.
    """
    splits: dict[str | None, list[VideoItem]] = {}
    for split, item in _read(source, root):
        splits.setdefault(split, []).append(item)
    return splits


def _read(
    source: str, root: str | Path | None, wanted_split: str | None = None
) -> Iterator[tuple[str | None, VideoItem]]:
    """The split and the item of each row."""
    numbers: dict[str, int] = {}
    with _open(source) as table:
        form, column, rows = _recognised(table)
        if wanted_split is not None:
            rows = _of_split(rows, column, wanted_split, table.name)
        folder = VideoFolder(table.folder if root is None or os.path.isdir(source) else root)  # noqa: PTH112
        for number, row in rows:
            try:
                item = form.item(row, folder)
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
def _open(source: str) -> Iterator[_Table]:
    name = repr(source)
    if source == STDIN:
        yield _Table("standard input", "line", Path.cwd(), path_rows(sys.stdin.buffer, "standard input"))
    elif os.path.isdir(source):  # noqa: PTH112 - which no name, however wrong, makes raise
        yield _Table(name, "file", Path(source), folder_rows(source))
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


def _recognised(table: _Table) -> tuple[Form, str | None, Rows]:
    """The form of a table and the column of its splits, by its first row; and all rows."""
    first = next(table.rows, None)
    if first is None:
        raise AnnotationError(f"{table.name} lists no videos")
    number, row = first
    form = form_of(row)
    if form is None:
        columns = ", ".join(map(repr, row))
        raise AnnotationError(
            f"{table.where(number)}: a list of videos has a column 'video'; the columns are {columns:.200}"
        )
    column = next((column for column in _SPLIT_COLUMNS if column in row), None)
    return form, column, chain([first], table.rows)


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
    return _SPLIT_NAMES.get(name, name)
