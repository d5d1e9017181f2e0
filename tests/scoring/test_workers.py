"""Worker processes that die, fail or are no longer wanted."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from sfavivit.datasets import VideoItem
from sfavivit.errors import EngineError, EngineUnavailableError, UsageError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.scoring import workers
from sfavivit.scoring.job_options import ModelLocation, ScoreOptions
from sfavivit.scoring.rows import Row
from sfavivit.scoring.workers import score_in_workers
from tests.conftest import random_frames
from tests.scoring.support import DEFAULT, wait_until
from tests.trapped_models import TrappedModels
from tests.video_files import encode

pytestmark = pytest.mark.timeout(300)  # processes by the dozen, perhaps on a busy machine


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[VideoItem]:
    """Nine videos; the fifth is white."""
    folder = tmp_path_factory.mktemp("videos")
    frames = random_frames(20).repeat(4, 1).repeat(4, 2)
    video, white = encode(folder / "a.mp4", frames), encode(folder / "white.mp4", np.full_like(frames, 255))
    return [VideoItem(str(k), str(white if k == 4 else video), {}) for k in range(9)]


def run(
    repository: Path, items: list[VideoItem], what: str, marks: Path, count: int = 2
) -> dict[str, list[Row]]:
    """Rows by video; each video must come once."""
    models = TrappedModels(str(repository), threads=1, what=what, marks=marks)
    found: dict[str, list[Row]] = {}
    rows_of = score_in_workers(items, models, models.catalog(), DEFAULT, workers=count)
    with closing(rows_of):
        for rows in filter(None, rows_of):
            assert rows[0]["id"] not in found
            found[rows[0]["id"]] = rows
    return found


@pytest.mark.parametrize(
    ("what", "reason"),
    [("kill", r"signal 9 \(SIGKILL\)"), ("bug", "internal error: ZeroDivisionError: a bug of two lines")],
)
def test_a_video_that_ends_its_worker_twice_is_an_error(
    repository: Path, items: list[VideoItem], tmp_path: Path, what: str, reason: str
) -> None:
    found = run(repository, items, what, tmp_path)
    assert found.keys() == {item.id for item in items}
    assert Counter(rows[0].get("error_kind") for rows in found.values()) == {None: 8, "worker_died": 1}
    (row,) = found["4"]
    assert re.search(reason, row["error_message"])
    assert "white.mp4" in row["error_message"] and "ended two workers" in row["error_message"]
    assert len(list(tmp_path.iterdir())) == 2  # tried again once


def test_a_worker_that_dies_is_replaced(repository: Path, items: list[VideoItem], tmp_path: Path) -> None:
    found = run(repository, items, "kill once", tmp_path, count=1)
    assert found.keys() == {item.id for item in items}
    assert not any("error_kind" in rows[0] for rows in found.values())
    assert len(list(tmp_path.iterdir())) == 2


def test_an_engine_that_fails_ends_the_job(repository: Path, items: list[VideoItem], tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="Triton is away"):
        run(repository, items, "away", tmp_path)
    assert not score_processes()


def test_models_that_kill_whoever_loads_them(
    repository: Path, items: list[VideoItem], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"while it loaded the models: signal 9 .* use fewer workers"):
        run(repository, items, "kill at load", tmp_path)


def test_a_machine_that_kills_everything(
    repository: Path, items: list[VideoItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_DEATHS", 3)
    with pytest.raises(EngineError, match="3 workers ended one after another, the last by signal 9"):
        run(repository, [items[4]] * 1 + [VideoItem("x", items[4].video, {})] * 5, "kill", tmp_path)


def test_wrong_options_are_raised_in_the_parent(repository: Path, items: list[VideoItem]) -> None:
    models = ModelLocation(str(repository))
    options = ScoreOptions(ClassifyOptions(("default",), stride_seconds=99))
    with pytest.raises(UsageError, match="a stride of 99 s"):
        list(score_in_workers(items, models, models.catalog(), options, workers=1))


def score_processes() -> list[psutil.Process]:
    """The workers that run now, and whoever they started."""
    return [
        process
        for child in psutil.Process().children()
        if "spawn_main" in " ".join(child.cmdline())
        for process in (child, *child.children(recursive=True))
    ]


def test_closing_leaves_nobody(repository: Path, items: list[VideoItem], tmp_path: Path) -> None:
    """In the middle of videos, one of which would never end."""
    models = TrappedModels(str(repository), threads=1, what="hang", marks=tmp_path)
    rows_of = score_in_workers(items, models, models.catalog(), DEFAULT, workers=2)
    with closing(rows_of):
        while not list(tmp_path.iterdir()):
            next(rows_of)
        wait_until(lambda: len(score_processes()) >= 2)  # the other worker may still be starting
        running = score_processes()
    assert not psutil.wait_procs(running, timeout=10)[1]


def test_workers_and_decoders_die_with_the_parent(
    repository: Path, items: list[VideoItem], tmp_path: Path
) -> None:
    """SIGKILL of the parent, while a worker hangs in a video."""
    models = TrappedModels(str(repository), threads=1, what="hang", marks=tmp_path)
    pid = os.fork()
    if not pid:
        try:
            for _ in score_in_workers(items, models, models.catalog(), DEFAULT, workers=2):
                pass
        finally:
            os._exit(0)
    parent = psutil.Process(pid)
    wait_until(lambda: list(tmp_path.iterdir()))
    running = parent.children(recursive=True)
    assert len(running) >= 2
    parent.kill()
    os.waitpid(pid, 0)
    assert not psutil.wait_procs(running, timeout=10)[1]
