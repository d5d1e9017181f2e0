"""Parquet parts: files of rows that are on disk as a whole or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from sfavivit.errors import ScoringError
from sfavivit.scoring.rows import SCHEMA, Row
from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.text import one_line

PART_NAME = re.compile(r"part-(\d+of\d+)-(\d+)\.parquet")
ROWS_FOLDER = "rows"
"""Folder of the parts alone, so that other programs can read it as one Parquet data set."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically and durably.

    Raises:
        ScoringError: it cannot be written; a file that was there before is unchanged.
    """
    with writing(path.parent):
        atomic_write(path, content)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an ``OSError`` in this context into a ``ScoringError`` that names the folder."""
    try:
        yield
    except OSError as error:
        raise ScoringError(
            f"{folder} cannot be written: {error.strerror or error}; what was scored before is kept, start "
            "again when this is mended"
        ) from error


def part_files(folder: Path) -> list[Path]:
    """Return the complete parts of all shards in a job's folder, in order."""
    rows = folder / ROWS_FOLDER
    if not rows.is_dir():
        return []
    return sorted(file for file in rows.iterdir() if PART_NAME.fullmatch(file.name))


def write_part(path: Path, rows: pa.Table) -> None:
    """Write a part, every page with a checksum. Raises as ``write_file``."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    write_file(path, sink.getvalue().to_pybytes())


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read some columns of a part (default: all), and verify their checksums.

    Raises:
        ScoringError: the file is damaged, or not a part.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise ScoringError(
                    f"{path} has other columns than this program writes; move it away, or name another folder"
                )
            return file.read(columns)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last for names of columns
        raise ScoringError(
            f"{path} cannot be read: {one_line(error)}; restore it, or remove it to score its videos again"
        ) from error


@dataclass
class PartWriter:
    """Collects rows and writes them as a part after ``videos`` videos, or ``seconds`` after the first.

    Leaving the context writes the rest. Rows whose part could not be written are dropped, never written
    twice. ``number`` is that of the next part.
    """

    folder: Path
    shard: str
    number: int
    videos: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _rows: list[Row] = field(default_factory=list, init=False)
    _videos: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def add(self, rows: list[Row]) -> None:
        """Add all rows of one video, or none, to let time pass. Raises ``ScoringError``."""
        if rows:
            self._since = self._since if self._rows else self.clock()
            self._rows += rows
            self._videos += 1
        late = self._rows and self.clock() - self._since >= self.seconds
        if late or self._videos >= self.videos:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far durably. Raises ``ScoringError``."""
        rows, self._rows, self._videos = self._rows, [], 0
        if rows:
            path = self.folder / ROWS_FOLDER / f"part-{self.shard}-{self.number:06d}.parquet"
            write_part(path, pa.Table.from_pylist(rows, SCHEMA))
            self.number += 1
