"""Worker processes that die, fail or are no longer wanted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
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
from tests.scoring.trapped_models import TrappedModels
from tests.video_files import encode

pytestmark = pytest.mark.timeout(300)  # processes by the dozen, perhaps on a busy machine


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[VideoItem]:
    """Nine videos; the fifth is white."""
    folder = tmp_path_factory.mktemp("videos")
    frames = random_frames(20).repeat(4, 1).repeat(4, 2)
    video, white = encode(folder / "a.mp4", frames), encode(folder / "white.mp4", np.full_like(frames, 255))
    return [VideoItem(str(k), str(white if k == 4 else video), {}) for k in range(9)]


Score = Callable[..., Generator[list[Row], None, None]]


@pytest.fixture
def score(repository: Path, items: list[VideoItem], tmp_path: Path) -> Score:
    """Scoring with models that do ``what`` at the white video, and leave a file in ``tmp_path`` each time."""

    def score(
        what: str, videos: Sequence[VideoItem] = items, workers: int = 2
    ) -> Generator[list[Row], None, None]:
        models = TrappedModels(str(repository), threads=1, what=what, marks=tmp_path)
        return score_in_workers(videos, models, models.catalog(), DEFAULT, workers=workers)

    return score


def by_video(rows_of: Generator[list[Row], None, None]) -> dict[str, list[Row]]:
    """Return the rows by video; each video must come once."""
    found: dict[str, list[Row]] = {}
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
    score: Score, items: list[VideoItem], tmp_path: Path, what: str, reason: str
) -> None:
    found = by_video(score(what))
    assert found.keys() == {item.id for item in items}
    assert Counter(rows[0].get("error_kind") for rows in found.values()) == {None: 8, "worker_died": 1}
    (row,) = found["4"]
    assert re.search(reason, row["error_message"])
    assert "white.mp4" in row["error_message"] and "ended two workers" in row["error_message"]
    assert len(list(tmp_path.iterdir())) == 2  # tried again once


def test_a_worker_that_dies_is_replaced(score: Score, items: list[VideoItem], tmp_path: Path) -> None:
    found = by_video(score("kill once", workers=1))
    assert found.keys() == {item.id for item in items}
    assert not any("error_kind" in rows[0] for rows in found.values())
    assert len(list(tmp_path.iterdir())) == 2


def test_an_engine_that_fails_ends_the_job(score: Score) -> None:
    with pytest.raises(EngineUnavailableError, match="Triton is away"):
        by_video(score("away"))
    assert not score_processes()


def test_models_that_kill_whoever_loads_them(score: Score) -> None:
    with pytest.raises(EngineError, match=r"while it loaded the models: signal 9 .* use fewer workers"):
        by_video(score("kill at load"))


def test_a_machine_that_kills_everything(
    score: Score, items: list[VideoItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_DEATHS", 3)
    with pytest.raises(EngineError, match="3 workers ended one after another, the last by signal 9"):
        by_video(score("kill", [items[4], *[VideoItem("x", items[4].video, {})] * 5]))


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


def test_closing_leaves_nobody(score: Score, tmp_path: Path) -> None:
    """The job is closed in the middle of videos, one of which would never end."""
    with closing(score("hang")) as rows_of:
        while not list(tmp_path.iterdir()):
            next(rows_of)
        wait_until(lambda: len(score_processes()) >= 2)  # the other worker may still be starting
        running = score_processes()
    assert not psutil.wait_procs(running, timeout=10)[1]


def test_workers_and_decoders_die_with_the_parent(score: Score, tmp_path: Path) -> None:
    """SIGKILL of the parent, while a worker hangs in a video."""
    pid = os.fork()
    if not pid:
        try:
            for _ in score("hang"):
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
