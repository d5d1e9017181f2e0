"""Options, rows of a folder and waiting, for tests of scoring jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.inference.options import ClassifyOptions
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.parquet_parts import part_files, read_part
from sfavivit.scoring.rows import Row
from sfavivit.scoring.scorer import score_items

BOTH = ScoreOptions(ClassifyOptions(("default", "long")))
DEFAULT = ScoreOptions(ClassifyOptions(("default",)))


def rows_in(folder: Path) -> list[Row]:
    """Return the rows of a job's folder."""
    return [row for part in part_files(folder) for row in read_part(part).to_pylist()]


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until a condition holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def scored(recognizer: Recognizer, items: list[VideoItem], options: ScoreOptions) -> list[Row]:
    """Score items; rows without timings, and with logits as lists, so that they can be compared."""
    return [
        {name: np.asarray(value).tolist() for name, value in row.items() if not name.endswith("_seconds")}
        for rows in score_items(recognizer, items, options)
        for row in rows
    ]
