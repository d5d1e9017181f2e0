"""The folder of a job: its locks, its record, and the removal of rows.

DIR/
  job.json                       the options that all rows share (record.py)
  rows/part-1of4-000001.parquet  the rows (rows.py)
  lock                           flock: shared by the running jobs, exclusive while one prepares the
                                 folder; its content is the number of shards they split the list into
  lock-1of4                      flock: exclusive to the job of this shard
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from sfavivit.errors import ScoringError, UsageError
from sfavivit.scoring.job_options import Output
from sfavivit.scoring.parquet_parts import (
    PART_NAME,
    ROWS_FOLDER,
    PartWriter,
    part_files,
    read_part,
    write_file,
    write_part,
    writing,
)
from sfavivit.scoring.record import Record, differences
from sfavivit.utils.atomic import fsync_path

JOB_NAME = "job.json"
METRICS_NAME = "metrics.json"
MAX_RECORD_BYTES = 64 << 20
# Replaces the record while parts are removed: a job that finds it continues the removal.
_REMOVING: Record = {"removing_parts": True}


@dataclass(frozen=True)
class JobFolder:
    """Folder to which this process may write the parts of one shard while ``opened`` lasts."""

    record: Record
    output: Output

    @property
    def path(self) -> Path:
        """Path of the folder."""
        return self.output.folder

    @classmethod
    @contextmanager
    def opened(cls, record: Record, output: Output) -> Iterator[Self]:
        """Lock the folder, made if need be, for a job with this ``record``.

        A removal of rows (``restart``, ``retry_errors``) may be killed at any moment: the next start
        completes it, or finds the rows as they were.

        Raises:
            UsageError: the folder has rows of a job with another record.
            ScoringError: another job runs on the shard, or on the folder whose rows are to be removed; the
                folder cannot be read or written.
        """
        folder, path, shard = cls(record, output), output.folder, output.shard
        with ExitStack() as stack:
            with writing(path):
                (path / ROWS_FOLDER).mkdir(parents=True, exist_ok=True)
                whole = stack.enter_context((path / "lock").open("a+"))
                own = stack.enter_context((path / f"lock-{shard}").open("a+"))
                alone = _lock(whole, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if alone:
                folder._prepare()
                with writing(path):
                    _write_count(whole, shard.count)
            elif output.restart or output.retry_errors:
                raise ScoringError(f"{path}: a job is running there; end it before rows are removed")
            with writing(path):
                _lock(whole, fcntl.LOCK_SH)  # waits while another job prepares the folder
                if not _lock(own, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    raise ScoringError(f"{path}: another job is running on shard {shard}; wait until it ends")
            folder._check(_read_count(whole))
            yield folder

    def outcomes(self) -> dict[str, str | None]:
        """Return {video id: error kind, None without an error} of all videos with rows, of any shard.

        Raises:
            ScoringError: a part is damaged, or a video is in two parts.
        """
        outcomes: dict[str, str | None] = {}
        for part in part_files(self.path):
            table = read_part(part, ["id", "error_kind"])
            found = dict(zip(table["id"].to_pylist(), table["error_kind"].to_pylist(), strict=True))
            if twice := found.keys() & outcomes.keys():
                raise ScoringError(f"{part}: {min(twice)!r} is in an earlier part too; remove one of them")
            outcomes |= found
        return outcomes

    def writer(self) -> PartWriter:
        """Return a writer of this shard's next parts."""
        shard = str(self.output.shard)
        matches = [PART_NAME.fullmatch(file.name) for file in part_files(self.path)]
        numbers = [int(match[2]) for match in matches if match and match[1] == shard]
        first = max(numbers, default=0) + 1
        return PartWriter(
            self.path, shard, first, videos=self.output.part_videos, seconds=self.output.part_seconds
        )

    def _prepare(self) -> None:
        """Remove rows as asked and write the record, while no other job has the folder."""
        with writing(self.path):
            for folder in (self.path, self.path / ROWS_FOLDER):
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink()
        old = _REMOVING if self.output.restart else self._read_record()
        if old == _REMOVING:
            self._remove_parts()
        elif part_files(self.path):
            self._compare(old)
        if self.output.retry_errors:
            self._remove_errors()
        if self._read_record() != self.record:
            text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
            write_file(self.path / JOB_NAME, text.encode())

    def _check(self, shards: int) -> None:
        """Check that this job fits the folder and the jobs that run on it."""
        self._compare(self._read_record())
        if shards != self.output.shard.count:
            raise UsageError(
                f"{self.path}: the running jobs split the list into {shards} shards, "
                f"not {self.output.shard.count}"
            )

    def _compare(self, old: Record | None) -> None:
        if old is None:
            raise UsageError(
                f"{self.path} has parts but no {JOB_NAME}: restore it, name another folder, or remove the "
                "rows with --restart"
            )
        if changed := differences(old, self.record):
            raise UsageError(
                f"{self.path} has rows of another job: {'; '.join(changed[:3])}; name another folder, or "
                "remove the rows with --restart"
            )

    def _read_record(self) -> Record | None:
        file = self.path / JOB_NAME
        try:
            with file.open("rb") as stream:
                record = json.loads(stream.read(MAX_RECORD_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ScoringError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ScoringError(f"{file} is not the record of a job; restore it, or name another folder")
        return record

    def _remove_parts(self) -> None:
        write_file(self.path / JOB_NAME, json.dumps(_REMOVING).encode())
        with writing(self.path):
            for part in part_files(self.path):
                part.unlink()
            (self.path / METRICS_NAME).unlink(missing_ok=True)
            fsync_path(self.path / ROWS_FOLDER)

    def _remove_errors(self) -> None:
        for part in part_files(self.path):
            table = read_part(part)
            kept = table.filter(table["error_kind"].is_null())
            if not len(kept):
                with writing(self.path):
                    part.unlink()
                    fsync_path(part.parent)
            elif len(kept) < len(table):
                write_part(part, kept)


def _lock(file: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    return True


def _write_count(file: IO[str], count: int) -> None:
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), str(count).encode())


def _read_count(file: IO[str]) -> int:
    text = os.pread(file.fileno(), 20, 0)
    return int(text) if text.isdigit() else 0
