"""``python -m benchmarks new-head``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.commands.options import DEMO_MODEL, HeldOutVideos, ModelRepository, Out, TrainingVideos
from benchmarks.figures import RESULTS, report


def new_head(
    videos: TrainingVideos = 50,
    held_out: HeldOutVideos = 100,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """From labelled videos to a served head, and an epoch on stored features against one on frames."""
    from benchmarks import new_head as heads  # noqa: PLC0415 - needs torch

    with TemporaryDirectory() as folder:
        rows = heads.measure(repository, Path(folder), videos, held_out)
    report("new_head", rows, out)
