"""The command: its output, its exit codes, and that a user never sees a traceback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.support import run, run_on_terminal, run_process
from tests.commands import SFAVIVIT
from tests.conftest import random_frames
from tests.video_files import encode


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = random_frames(100).repeat(4, 1).repeat(4, 2)
    return encode(tmp_path_factory.mktemp("video") / "a [bold]b.mp4", frames)


def test_json_lines_with_a_failure_among_them(repository: Path, video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken\n.mp4"
    broken.write_text("this is no video")
    options = ("--repository", repository, "--json", "--top-k", "2")
    done = run_process("classify", video, broken, video, *options, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    first, failed, last = map(json.loads, done.stdout.splitlines())
    assert (first["video"], first["duration_seconds"], first["frames_used"]) == (str(video), 4.0, 50)
    assert first["heads"] == last["heads"]
    assert len(first["heads"]["default"][""]["labels"]) == 2
    assert failed["video"] == str(broken)
    assert failed["error"]["kind"] == "not_a_video"


def test_table_and_timeline(repository: Path, video: Path) -> None:
    done = run("classify", video, "--head", "long", SFAVIVIT_REPOSITORY=str(repository))
    assert (done.returncode, done.stderr) == (0, "")
    header = done.stdout.splitlines()[0]
    assert header.startswith(f"{video}  0:04.0, 50 frames") and header.endswith(")"), "one line for grep"
    assert "long / verb" in done.stdout and "long / noun" in done.stdout
    assert re.search(r"class \d\s+━+┄*\s+\d+\.\d%", done.stdout)
    assert re.search(r"0:00\.0 – \d:\d\d\.\d +A +class \d", done.stdout)


def test_failures_are_a_line_each_and_the_rest_is_done(repository: Path, video: Path, tmp_path: Path) -> None:
    done = run("classify", tmp_path / "no.mp4", video, tmp_path, "--repository", repository)
    assert done.returncode == 1
    assert "default" in done.stdout
    errors = done.stderr.splitlines()
    assert len(errors) == 2 and all(line.startswith("error: ") for line in errors)
    assert "no.mp4" in errors[0] and "directory" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "nope"], "no head 'nope'"),
        (["--stride", "99"], "stride of 99 s"),
        (["--top-k", "0"], "top-k must be at least 1"),
        (["--threads", "-1"], "threads must be from 1 to 1024, got -1"),
        (["--threads", "1025"], "threads must be from 1 to 1024, got 1025"),
        (["--engine", "abacus"], "unknown engine 'abacus'"),
        (["--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["--repository", "/nowhere"], "/nowhere is not a model repository"),
        (["--limit-pixels", "0"], "limit pixels must be"),
        (["--limit-memory-mib", "8"], "limit memory_bytes must be"),
        (["--nonsense"], "No such option"),
        (["--top-k", "many"], "should be a valid integer"),
    ],
)
def test_wrong_use_is_exit_2(repository: Path, video: Path, arguments: list[str], message: str) -> None:
    done = run("classify", video, *arguments, SFAVIVIT_REPOSITORY=str(repository))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


def test_limits_are_passed_on(repository: Path, video: Path) -> None:
    options = ("--repository", repository, "--json")
    for limit in (["--limit-duration-seconds", "1"], ["--limit-pixels", "100"]):
        done = run("classify", video, *options, *limit)
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["kind"] == "limit", limit


def test_a_reader_that_leaves_is_no_traceback(repository: Path, video: Path) -> None:
    command = " ".join(
        [*SFAVIVIT, "classify", *[f"'{video}'"] * 3, "--json", "--repository", f"'{repository}'"]
    )
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children inherit an ignored SIGINT, as jobs in the background have it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_ends_at_once_and_leaves_no_decoder(repository: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    encode(long, random_frames(3000).repeat(8, 1).repeat(8, 2))
    command = [*SFAVIVIT, "classify", *[str(long)] * 50, "--json", "--repository", str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline()
        deadline = time.monotonic() + 10
        while not (children := psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130  # 128 + SIGINT, as shells report it
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_progress_is_for_terminals_only(repository: Path, video: Path) -> None:
    """On a terminal a bar is drawn on stderr and wiped; stdout stays the answer alone."""
    output, drawn = run_on_terminal("classify", video, "--json", "--repository", repository)
    assert "a [bold]b.mp4" in drawn and "\x1b[2K" in drawn
    assert json.loads(output)
