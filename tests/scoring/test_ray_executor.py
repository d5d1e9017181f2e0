"""Scoring on a Ray cluster: a real one, with loopback for its network."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from sfavivit.datasets import VideoItem
from sfavivit.errors import RepositoryError, ScoringError, UsageError
from sfavivit.scoring.job_options import ModelLocation
from sfavivit.scoring.machines import Machines, ray_cluster
from sfavivit.scoring.parquet_parts import part_files
from sfavivit.scoring.rows import Row
from sfavivit.scoring.scorer import score_items
from tests.commands import SFAVIVIT
from tests.conftest import random_frames
from tests.scoring.support import BOTH, rows_in, wait_until
from tests.scoring.trapped_models import TrappedModels
from tests.video_files import encode
from tests.web_files import served

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # it copies settings of its own
    pytest.mark.timeout(300),  # clusters start slowly on a machine that is busy
]

WHITE = "4"
MEASURED = ("decode_seconds", "spatial_seconds", "temporal_seconds", "total_seconds")


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[psutil.Process, str]]:
    """A cluster of four cores, whatever this machine has, and its address. None of it is left at the end."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    command = [sys.executable, "-m", "tests.scoring.ray_head"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        address = process.stdout.readline().strip()
        yield psutil.Process(process.pid), address
        running = psutil.Process(process.pid).children(recursive=True)
        assert len(running) > 2
        process.stdin.close()
        assert not psutil.wait_procs(running, timeout=30)[1]
    patch.undo()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for k in range(2):
        encode(folder / f"{k}.mp4", random_frames(20 + 40 * k, seed=k).repeat(4, 1).repeat(4, 2))
    return folder


@pytest.fixture
def server(videos: Path) -> Iterator[str]:
    with served(videos) as address:
        yield address


def score(address: str, items: list[VideoItem], models: ModelLocation) -> dict[str, list[Row]]:
    """Rows by video; each video must come once."""
    catalog = models.catalog()
    if isinstance(models, GoneModels):
        shutil.rmtree(models.repository)
    ray_cluster(address)
    from sfavivit.scoring.ray_executor import score_on_ray  # noqa: PLC0415 - with the settings of ray_cluster

    found: dict[str, list[Row]] = {}
    for rows in filter(None, score_on_ray(items, models, catalog, BOTH, workers=2)):
        assert rows[0]["id"] not in found
        found[rows[0]["id"]] = comparable(rows)
    return found


def comparable(rows: list[Row]) -> list[Row]:
    """Return rows without what differs from run to run, and with logits as lists."""
    return [
        {name: np.asarray(value).tolist() for name, value in row.items() if name not in MEASURED}
        for row in rows
    ]


def test_rows_are_those_of_one_machine_but_for_a_video_that_kills(
    head: tuple[psutil.Process, str], repository: Path, videos: Path, server: str, tmp_path: Path
) -> None:
    """Paths, URLs, broken videos; bit for bit, as the threads are as many."""
    white = encode(tmp_path / "white.mp4", np.full((40, 64, 64, 3), 255, np.uint8))
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "marks").mkdir()
    kinds = {
        f"{videos}/0.mp4": None,
        f"{server}/1.mp4": None,
        f"file://{videos}/0.mp4": None,
        f"{tmp_path}/text.mp4": "not_a_video",
        str(white): "worker_died",
        f"{server}/nothing.mp4": "not_found",
        f"{videos}/1.mp4": None,
    }
    paths = [*kinds, f"{videos}/1.mp4"]
    items = [VideoItem(str(k), path, {"": 3}, 0.1 if k == 7 else 0.0) for k, path in enumerate(paths)]
    recognizer = ModelLocation(str(repository), threads=1).load()
    expected = {rows[0]["id"]: comparable(rows) for rows in score_items(recognizer, items, BOTH)}
    models = TrappedModels(str(repository), threads=1, what="kill", marks=tmp_path / "marks")
    found = score(head[1], items, models)
    assert [rows[0].get("error_kind") for _, rows in sorted(found.items())] == [*kinds.values(), None]
    killers, _ = found.pop(WHITE), expected.pop(WHITE)
    assert found == expected
    assert len(killers) == 3 and {row["error_kind"] for row in killers} == {"worker_died"}
    assert f"{str(white)!r}: ended 2 workers" in killers[0]["error_message"]
    assert len(list((tmp_path / "marks").iterdir())) == 2


class GoneModels(ModelLocation):
    """Models that the workers do not find."""


def test_models_that_the_workers_do_not_have(
    head: tuple[psutil.Process, str], repository: Path, videos: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    with pytest.raises(RepositoryError, match=f"^{copy}[^\n]*$"):
        items = [VideoItem(str(k), f"{videos}/0.mp4", {}) for k in range(12)]  # ends in the middle of others
        score(head[1], items, GoneModels(str(copy), threads=1))


def command(repository: Path, listed: Path, out: Path, address: str, *, workers: int = 1) -> list[str]:
    where = ["--out", out, "--repository", repository, "--ray", address]
    options = [*where, "--workers", workers, "--threads", 1]
    return [*SFAVIVIT, "score", str(listed), *map(str, options), "--part-videos", "1", "--json"]


def _name(process: psutil.Process) -> str:
    """Empty when it has ended in the meantime."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def named(process: psutil.Process, name: str) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if name in " ".join(child.cmdline()[:1]):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def listed(videos: Path, tmp_path: Path) -> Path:
    """24 videos."""
    path = tmp_path / "list.csv"
    path.write_text("id,video\n" + "".join(f"{k},{videos}/{k % 2}.mp4\n" for k in range(24)))
    return path


def test_a_job_and_an_actor_that_are_killed(
    head: tuple[psutil.Process, str], repository: Path, listed: Path, tmp_path: Path
) -> None:
    """First the job, whose actors and decoders end, too; then an actor of the job that goes on."""
    cluster, address = head
    out = tmp_path / "out"
    arguments = command(repository, listed, out, address)
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        wait_until(lambda: out.exists() and part_files(out), 200)
        job.kill()
    wait_until(lambda: not named(cluster, "MapWorker") and not named(cluster, "ffmpeg"), 200)
    before = len(part_files(out))
    assert 1 <= before < 20
    arguments = command(repository, listed, out, address, workers=2)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as again:
        wait_until(lambda: len(part_files(out)) > before, 200)
        actors = named(cluster, "MapWorker")
        actors[0].send_signal(signal.SIGKILL)
        said, complained = again.communicate(timeout=200)
    assert again.returncode == 0, complained
    summary = json.loads(said)  # and nothing else
    assert (summary["done_before"], summary["done_now"], summary["failed"]) == (before, 24 - before, {})
    # On a slow machine a line now and then says how far it is.
    assert all(" of 24 videos, " in line for line in complained.splitlines())
    rows = rows_in(out)
    assert sorted((row["id"], row["output"]) for row in rows) == sorted(
        (str(k), output) for k in range(24) for output in ("", "noun", "verb")
    )
    for parity in range(2):
        logits = {(row["output"], tuple(row["logits"])) for row in rows if int(row["id"]) % 2 == parity}
        assert len(logits) == 3  # the same, whoever scored it


def test_a_cluster_of_its_own_dies_with_the_job(repository: Path, listed: Path, tmp_path: Path) -> None:
    """Two agents of Ray stay, which do no work, and look for their cluster for a minute."""
    out = tmp_path / "out"
    with subprocess.Popen(command(repository, listed, out, "local"), stdout=subprocess.DEVNULL) as job:
        wait_until(lambda: out.exists() and part_files(out), 200)
        running = psutil.Process(job.pid).children(recursive=True)
        agents = [process for process in running if "Agent" in _name(process)]
        assert all(named(psutil.Process(job.pid), name) for name in ("MapWorker", "raylet"))
        job.kill()
    assert not psutil.wait_procs(set(running) - set(agents), timeout=60)[1]
    for agent in agents:
        with suppress(psutil.NoSuchProcess):
            agent.kill()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("ray://127.0.0.1:10001", UsageError, "must be local, auto or the HOST:PORT"),
        ("head", UsageError, "must be local"),
        ("127.0.0.1:1", ScoringError, "no Ray cluster at '127.0.0.1:1': .*refused.*ray start --head"),
    ],
)
def test_addresses_that_cannot_be(address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ray_cluster(address)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--ray needs ray: pip install 'sfavivit\[ray\]'"):
        ray_cluster("local")


def test_shares_of_machines() -> None:
    machines = Machines(cores=64, largest_cores=16, gpus=4)
    assert [machines.cores_each(workers) for workers in (1, 2, 8, 100)] == [16, 16, 8, 1]
    assert [machines.gpus_each(workers) for workers in (1, 4, 5, 8)] == [1, 1, 1 / 2, 1 / 2]
    assert Machines(8, 8).gpus_each(4) == 0
