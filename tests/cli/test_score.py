"""``sfavivit score`` from the outside: what it prints, its exit codes, and jobs that are killed."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from typer.main import get_command

from benchmarks import resume
from benchmarks.resume import BREAKAGES, make_corpus
from sfavivit.cli.main import app
from sfavivit.cli.progress import JobMonitor
from sfavivit.errors import SfaVivitError, codes_of
from sfavivit.scoring.job import JobProgress
from sfavivit.scoring.parquet_parts import part_files
from tests.cli.support import run_on_terminal, run_process
from tests.commands import SFAVIVIT
from tests.conftest import random_frames
from tests.scoring.support import rows_in, wait_until
from tests.video_files import encode

pytestmark = pytest.mark.timeout(300)  # processes by the dozen, perhaps on a busy machine


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list with every kind of broken video among good ones."""
    return make_corpus(tmp_path_factory.mktemp("corpus") / "videos", 18, len(BREAKAGES))


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes some ten seconds to score."""
    return encode(tmp_path_factory.mktemp("long") / "long.mp4", random_frames(3000).repeat(8, 1).repeat(8, 2))


def command(*arguments: str | Path, repository: Path) -> list[str]:
    return [*SFAVIVIT, "score", *map(str, arguments), "--repository", str(repository), "--workers", "1"]


def run(
    *arguments: str | Path, repository: Path, stdin: str = "", file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """``file_bytes``: no file may become larger, as if the disk were full."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    options = ("--repository", repository, "--workers", "1")
    return run_process("score", *arguments, *options, input=stdin, preexec_fn=limit)


def test_a_list_with_broken_videos(repository: Path, corpus: Path, tmp_path: Path) -> None:
    done = run(corpus, "--out", tmp_path, "--json", repository=repository)
    assert (done.returncode, done.stderr) == (1, "")
    summary = json.loads(done.stdout)
    assert (summary["videos"], summary["done_before"], summary["done_now"]) == (18, 0, 18)
    assert sum(summary["failed"].values()) == len(BREAKAGES) == 18 - summary["succeeded"]
    assert summary["devices"] == {"cpu": summary["succeeded"]}
    assert len(summary["failed"]) >= 5
    assert Counter(row["id"] for row in rows_in(tmp_path)) == {f"v{k}": 3 for k in range(18)}

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == summary["metrics"] and metrics.keys() == {"default"}
    with corpus.open() as file:
        truths = {row["id"]: f"class {row['label']}" for row in csv.DictReader(file)}
    rows = [row for row in rows_in(tmp_path) if row["head"] == "default" and not row["error_kind"]]
    right = sum(row["labels"][0] == truths[row["id"]] for row in rows) / len(rows)
    assert metrics["default"]["outputs"][""]["top1"] == pytest.approx(right)
    assert list(tmp_path.glob("confusion_default*.png")) and list(tmp_path.glob("confusion_default*.csv"))

    again = run(corpus, "--out", tmp_path, repository=repository)
    assert (again.returncode, again.stderr) == (1, "")
    words = " ".join(again.stdout.split())
    assert "0 videos" in words and "18 were done before" in words and f"{len(BREAKAGES)} failed:" in words
    assert "not_found" in words and f"{tmp_path}/rows" in words
    assert f"{right:.1%}" in words


def test_standard_input_and_a_folder(repository: Path, corpus: Path, tmp_path: Path) -> None:
    good = sorted(corpus.parent.glob("original*.mp4"))[:2]
    lines = "".join(f"{path}\n" for path in good)
    done = run("-", "--out", tmp_path / "a", "--heads", "long", repository=repository, stdin=lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert {row["video"] for row in rows_in(tmp_path / "a")} == set(map(str, good))
    assert not (tmp_path / "a" / "metrics.json").exists()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / good[0].name).symlink_to(good[0])
    (tmp_path / "folder" / f"._{good[0].name}").touch()
    done = run(tmp_path / "folder", "--out", tmp_path / "b", "--views", "4x3", repository=repository)
    assert done.returncode == 0
    assert done.stderr == f"note: '{tmp_path}/folder': 1 left out as no video: 1 ._* of macOS\n"
    assert len(rows_in(tmp_path / "b")) == 3
    assert all(row["timeline"] == [] for row in rows_in(tmp_path / "b"))


def failure(*arguments: str | Path) -> SfaVivitError:
    """Run the command in this process; returns the error that it raises."""
    with pytest.raises(SfaVivitError) as caught:
        get_command(app).main(["score", *map(str, arguments)], standalone_mode=False)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "nope"], "no head 'nope'"),
        (["--stride", "99"], "stride of 99 s"),
        (["--top-k", "0"], "top-k must be at least 1"),
        (["--engine", "abacus"], "unknown engine 'abacus'"),
        (["--repository", "/nowhere"], "/nowhere is not a model repository"),
        (["--views", "4x2"], "views 4x2 cannot be"),
        (["--shard", "5/4"], "shard '5/4' must be I/N"),
        (["--limit-pixels", "0"], "limit pixels must be"),
    ],
)
def test_wrong_use(
    repository: Path, corpus: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    where = ("--repository", repository, "--workers", "1")
    error = failure(corpus, "--out", tmp_path / "out", *where, *arguments)
    assert message in str(error) and codes_of(error).exit_code == 2
    assert not list(tmp_path.glob("out/part*"))


def test_hostile_lists_and_folders(repository: Path, corpus: Path, tmp_path: Path) -> None:
    file, store = tmp_path / "file", tmp_path / "store"
    file.write_text("x")
    store.mkdir()
    (store / "mine.txt").touch()
    (tmp_path / "odd.jsonl").write_text('{"video": "gopher://a/b.mp4"}\n')
    cases: list[tuple[list[str | Path], int, str]] = [
        ([tmp_path / "none.csv", "--out", tmp_path / "o"], 2, "none.csv"),
        ([tmp_path / "odd.jsonl", "--out", tmp_path / "o"], 2, "Protocol not known: gopher"),
        ([corpus, "--out", file], 1, "cannot be written: Not a directory"),
        ([corpus, "--out", file / "out"], 1, "cannot be written: Not a directory"),
        ([corpus, "--out", "/proc/none"], 1, "cannot be written: No such file"),
        ([corpus, "--out", tmp_path / "o", "--features", store], 1, "neither a feature store nor empty"),
    ]
    for arguments, code, message in cases:
        error = failure(*arguments, "--repository", repository)
        assert message in str(error) and codes_of(error).exit_code == code


def test_two_jobs_on_one_folder(repository: Path, long_video: Path, corpus: Path, tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("-", "--out", tmp_path, repository=repository), stdin=subprocess.PIPE, text=True
    )
    assert running.stdin
    running.stdin.write(f"{long_video}\n")
    running.stdin.close()
    wait_until(lambda: bool(psutil.Process(running.pid).children()))
    running.send_signal(signal.SIGSTOP)  # it holds its locks for as long as the others take
    for arguments in ([], ["--restart"], ["--retry-errors"]):
        error = failure(corpus, "--out", tmp_path, "--repository", repository, *arguments)
        assert "job is running" in str(error) and codes_of(error).exit_code == 1
    running.send_signal(signal.SIGCONT)
    assert running.wait(60) == 0
    assert len(rows_in(tmp_path)) == 3


def test_a_full_disk_is_one_line_and_breaks_nothing(repository: Path, corpus: Path, tmp_path: Path) -> None:
    done = run(corpus, "--out", tmp_path, "--part-videos", "2", repository=repository, file_bytes=3000)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/rows cannot be written: File too large; what was scored before is kept" in done.stderr
    assert not part_files(tmp_path) and not list(tmp_path.rglob(".*"))
    assert run(corpus, "--out", tmp_path, repository=repository).returncode == 1
    assert len(rows_in(tmp_path)) == 18 * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_in_good_order(
    repository: Path, corpus: Path, long_video: Path, tmp_path: Path, number: signal.Signals
) -> None:
    short = min(corpus.parent.glob("original*.mp4"))
    process = subprocess.Popen(
        command("-", "--out", tmp_path, "--json", "--part-videos", "2", repository=repository),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(f"{short}\n{short}@\n{short}@2\n{long_video}\n")
    process.stdin.close()
    process.stdin = None
    tree: list[psutil.Process] = []
    wait_until(lambda: bool(part_files(tmp_path)) and decoding(process.pid, long_video, tree))
    os.killpg(process.pid, number)  # as a terminal does: to all of them
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (128 + number, "")
    summary = json.loads(output)
    assert summary["videos"] == 4 and summary["metrics"] is None
    assert summary["done_now"] == len(rows_in(tmp_path)) / 3 in (2, 3)
    assert not psutil.wait_procs(tree, timeout=10)[1]


def decoding(pid: int, video: Path, tree: list[psutil.Process]) -> bool:
    """Return whether a worker decodes this video now; ``tree`` becomes all processes there are."""
    tree[:] = psutil.Process(pid).children(recursive=True)
    for process in tree:
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/fd/0").readlink() == video:
                return True
    return False


def test_killed_and_resumed(repository: Path, tmp_path: Path) -> None:
    """The smaller sister of ``python -m benchmarks resume``: 300 videos, 20 kills."""
    (row,) = resume.measure(repository, tmp_path, videos=36, broken=4, kills=3, seed=1)
    samples = {name: figure.samples for name, figure in row.figures.items()}
    assert samples["killed"] == (3,)
    assert [samples[name] for name in ("lost", "twice", "vanished", "differing")] == [(0,)] * 4
    assert 0 < samples["scored at a kill"][1] < 36  # it was killed in the middle


def test_a_bar_for_terminals(repository: Path, corpus: Path, tmp_path: Path) -> None:
    """The bar is drawn on stderr and wiped; stdout stays the summary alone."""
    videos = tmp_path / "videos.csv"
    videos.write_text(f"video\n{min(corpus.parent.glob('original*.mp4'))}\n/nowhere.mp4\n")
    where = ("--out", tmp_path / "out", "--repository", repository, "--workers", "1")
    output, drawn = run_on_terminal("score", videos, *where, "--json")
    assert "2/2" in drawn and "videos/s" in drawn and "failed" in drawn and "\x1b[2K" in drawn
    assert json.loads(output)["videos"] == 2


def test_a_line_now_and_then_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sfavivit.cli.progress.time.monotonic", lambda: now[0])
    shown = StringIO()
    view = JobMonitor("scoring", Console(file=shown, width=40))
    state = JobProgress(videos=1000, before=100, outcomes=Counter({None: 90, "empty": 10}))
    with view.shown():
        for passed in range(61):
            now[0] = 100.0 + passed
            state.outcomes[None] += 2
            view.update(state)
    first, second = shown.getvalue().splitlines()
    assert first == "162 of 1000 videos, 2.07 videos/s, 0:06:45 to go, 10 failed"
    assert second == "222 of 1000 videos, 2.03 videos/s, 0:06:23 to go, 10 failed"
