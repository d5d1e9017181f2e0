"""``python -m client`` against a real service: its output is that of ``sfavivit classify``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.__main__ import app
from serving.settings import Security
from sfavivit import Recognizer
from sfavivit.cli.main import app as sfavivit
from sfavivit.video.reader import VideoReader
from tests.commands import run_here
from tests.conftest import noise_video, random_frames
from tests.scoring.support import rows_in
from tests.serving.support import address_of, encode_videos, running_service
from tests.video_files import encode, ffmpeg

TOKEN = "a-token-of-32-characters-0123456"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_videos(tmp_path_factory.mktemp("a [bold]b"), 1)[0]


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(TOKEN)
    with running_service(repository, security=Security(token_file=tokens)) as server:
        yield address_of(server)


@pytest.fixture
def run(address: str) -> Any:
    def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Any:
        """In a process of its own where standard input is read."""
        environment = {"SFAVIVIT_SERVER": address, "SFAVIVIT_TOKEN": TOKEN} | environment
        if not stdin:
            done: Any = run_here(app, *arguments, **environment)
        else:
            command = [sys.executable, "-m", "client", *map(str, arguments)]
            variables = os.environ | environment
            done = subprocess.run(command, capture_output=True, check=False, env=variables, input=stdin)
            done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


def without_timings(line: str) -> dict[str, Any]:
    fields = json.loads(line)
    stages = {f"{stage}_seconds" for stage in ("decode", "spatial", "temporal", "total")}
    timings = fields.pop("timings")
    assert set(timings) == stages | {"device"}
    assert timings["device"] == "cpu"
    for outputs in fields["heads"].values():
        for result in outputs.values():
            for item in (*result["labels"], *result["timeline"]):
                for key in item.keys() - {"label"}:
                    item[key] = round(item[key], 5)
    return dict(fields)


def test_json_is_that_of_sfavivit_classify(run: Any, repository: Path, video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no video")
    done = run("classify", video, broken, tmp_path / "none.mp4", video, "--json", "--top-k", "2")
    assert done.returncode == 1
    first, failed, missing, last = done.stdout.splitlines()
    words = ("classify", video, "--json", "--top-k", "2", "--repository", repository)
    local = run_here(sfavivit, *words).stdout
    assert without_timings(first) == without_timings(last) == without_timings(local)
    assert json.loads(failed)["error"]["kind"] == "not_a_video"
    assert json.loads(missing)["error"]["kind"] == "not_found"


def test_every_answer_tells_what_was_irregular(run: Any, repository: Path, tmp_path: Path) -> None:
    video, other = tmp_path / "a.mkv", encode(tmp_path / "other.mkv", random_frames(10, 1))
    inputs = ("-i", noise_video(tmp_path / "first.mkv", 100), "-i", other, "-map", "0", "-map", "1")
    ffmpeg(*inputs, "-c", "copy", "-bsf:v:0", "setts=pts='PTS+if(eq(N\\,50)\\,40/TB\\,0)':dts=DTS", video)
    warning = (
        "1 timestamp was out of order near second 2.0; "
        "2 video tracks, of which track 0 (64x64, the default) was read; --video-track N reads another"
    )
    local = (sfavivit, "classify", video, "--repository", repository)
    answers = [run(command, video, "--json") for command in ("classify", "stream")]
    answers.append(run_here(*local, "--json", "--report", tmp_path / "a.html"))
    answers.append(run("features", video, "--folder", tmp_path, "--json"))
    for done in answers:
        assert json.loads(done.stdout.splitlines()[-1])["warning"] == warning
    for done in (run_here(*local), run("classify", video), run("features", video, "--folder", tmp_path)):
        assert f"warning: {warning}" in done.stdout.splitlines()
    listed = tmp_path / "list.csv"
    listed.write_text(f"video\n{video}\n")
    scored = (sfavivit, "score", listed, "--out", tmp_path / "scores", "--repository", repository)
    assert run_here(*scored, "--workers", "1", "--report", tmp_path / "b.html").returncode == 0
    assert {row["warning"] for row in rows_in(tmp_path / "scores")} == {warning}
    for page in ("a.html", "b.html"):
        assert warning in (tmp_path / page).read_text()
    chosen = json.loads(run("classify", video, "--json", "--video-track", "1").stdout)
    assert (chosen["frames_used"], "warning" in chosen) == (5, False)
    assert (
        chosen["heads"]["default"] == json.loads(run("classify", other, "--json").stdout)["heads"]["default"]
    )


def test_table_for_people(run: Any, video: Path) -> None:
    done = run("classify", video, "--head", "long", "--start", "0.8", "--end", "2.4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "long / verb" in done.stdout
    assert "0:00.8 – " in done.stdout


@pytest.mark.parametrize("source", ["file", "-"])
def test_stream(run: Any, repository: Path, video: Path, source: str) -> None:
    name = str(video) if source == "file" else "-"
    done = run("stream", name, "--json", stdin=b"" if source == "file" else video.read_bytes())
    assert done.returncode == 0, done.stderr
    *windows, last = map(json.loads, done.stdout.splitlines())
    assert {w["head"] for w in windows} == {"default", "long"}
    assert {w["provisional"] for w in windows} == {True, False}
    assert (last["video"], last["frames_used"]) == (name, 40)
    plain = run("stream", video, "--head", "default")
    assert "default: class" in plain.stdout and "━" in plain.stdout


def test_features(run: Any, repository: Path, video: Path, tmp_path: Path) -> None:
    done = run("features", video, "--folder", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["shape"], answer["frames_used"]) == ([20, 32], 40)
    local = Recognizer.load(repository)
    with VideoReader(video, local.manifest.sampling, chunk_frames=local.model.chunk_frames) as reader:
        expected = local.features(np.concatenate(list(reader)))
    assert np.array_equal(np.load(answer["features"]), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["0.mp4.npy"]
    assert run("features", video, "--folder", tmp_path / "none").returncode == 2


def test_heads(run: Any) -> None:
    answer = json.loads(run("heads", "--json").stdout)
    assert list(answer["heads"]) == ["default", "long"]
    assert len(answer["heads"]["long"]["outputs"]["verb"]) == 5
    assert "1.92 s" in run("heads").stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (["classify", "VIDEO", "--head", "nope"], {}, 2, "no head 'nope'"),
        (["classify", "VIDEO", "--top-k", "-1"], {}, 2, "top-k must be at least 1"),
        (["classify", "VIDEO"], {"SFAVIVIT_TOKEN": "wrong"}, 1, "not one that this service knows"),
        (["classify", "VIDEO"], {"SFAVIVIT_SERVER": "127.0.0.1:1"}, 1, "video service at 127.0.0.1:1"),
        (["--token-file", "/nowhere", "heads"], {}, 2, "token file /nowhere cannot be read"),
        (["--tls-cert", "/nowhere", "heads"], {}, 2, "belong together"),
        (["--tls-ca", "/nowhere", "heads"], {}, 2, "/nowhere cannot be read"),
        (["--timeout", "0.001", "classify", "VIDEO"], {}, 1, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_are_a_line(
    run: Any, video: Path, arguments: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    done = run(*[str(video) if argument == "VIDEO" else argument for argument in arguments], **environment)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"no video"], ids=["refused here", "refused by the service"])
def test_an_error_names_its_video_once(run: Any, tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "x.mp4").write_bytes(content)
    done = run("classify", path)
    assert done.returncode == 1 and done.stderr.count(str(path)) == 1


def test_progress_is_for_terminals_only(address: str, video: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "client", "--server", address, "classify", str(video), "--json"]
    environment = os.environ | {"SFAVIVIT_TOKEN": TOKEN, "TERM": "xterm"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=slave, text=True, check=True, env=environment
    )
    os.close(slave)
    drawn = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "0.mp4" in drawn and "\x1b[2K" in drawn
    assert json.loads(done.stdout)
