"""Outputs that cannot take everything: other encodings, full disks, readers that left, closed streams."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.exporter import ExportOptions, export_model
from sfavivit.cli.render import show_failure, show_recognition
from sfavivit.cli.run import prepare_output, run_app
from sfavivit.errors import DecodeError
from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment, Timings
from tests.commands import SFAVIVIT
from tests.conftest import SIDE, build_model
from tests.docs.test_commands import help_of

APPLICATIONS = (
    "sfavivit.cli.main",
    "client.__main__",
    "export.__main__",
    "serving.__main__",
    "training.__main__",
    "benchmarks.__main__",
    "examples.motions.__main__",
)
LABELS = ["日本語", "🏄 surfing", "\udcff", "naïve", "\x1b[31m", "plain", "a\nb"]
NATIVE_LABELS = ("日本語", "🏄", "ñ", "–", "é", "ü", "Ω")


@contextmanager
def broken_pipe() -> Iterator[io.TextIOWrapper]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as sink:
        yield sink


def help_into(application: str, sink: io.TextIOWrapper) -> tuple[int, str]:
    """Exit code and standard error of ``--help`` written to ``sink``."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(sink),
        redirect_stderr(io.StringIO()) as errors,
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr("sys.argv", ["command", "--help"])
        run_app(import_module(application).app)
    return int(end.value.code or 0), errors.getvalue()


@pytest.mark.parametrize("application", APPLICATIONS)
def test_an_output_that_fails(application: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        code, errors = help_into(application, full)
    assert code == 1
    assert errors == "error: cannot write: No space left on device; free space, or write elsewhere\n"
    with broken_pipe() as sink:
        assert help_into(application, sink) == (1, "")


@pytest.mark.parametrize(
    "words",
    [
        *(application.removesuffix(".__main__") for application in APPLICATIONS),
        "sfavivit.cli.main classify",
        "sfavivit.cli.main store prune",
        "benchmarks load",
        "serving serve",
        "serving.triton_install",
    ],
)
def test_help_begins_with_a_sentence_and_shows_flags_bare(words: str) -> None:
    code, text = help_of(["python", "-m", *words.split()])
    assert code == 0 and "<bool>" not in text
    assert re.search(r"Usage: [^\n]+\n *\n +[A-Z][\w-]+ ", text), "a sentence of its own"


texts = st.sampled_from(LABELS) | st.text(
    st.characters(exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),  # bytes of a file name
    max_size=12,
)
encodings = st.sampled_from(["ascii", "latin-1", "utf-8", "cp1252", "shift_jis"])


@given(label=texts, video=texts, encoding=encodings)
def test_any_text_in_any_encoding(label: str, video: str, encoding: str) -> None:
    result = OutputResult(
        (LabelScore(label, 0.5),), (Segment(0.0, 1.0, label, 0.5),), np.zeros(1, np.float32)
    )
    answer = Recognition(video, 1.0, 25, {"default": {"": result}}, Timings(0, 0, 0, 0), label)
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, encoding=encoding)) as sink:
        prepare_output()
        show_recognition(answer, as_json=True)
        show_failure(video, DecodeError(label), as_json=True)
        show_recognition(answer, as_json=False)
        sink.flush()
        first, second, *_ = raw.getvalue().decode(encoding).split("\n")
    assert json.loads(first)["video"] == json.loads(second)["video"] == video
    assert json.loads(first)["heads"]["default"][""]["labels"][0]["label"] == label
    assert json.loads(second)["error"]["message"] == label


@pytest.fixture(scope="module")
def labelled(parity_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose labels are not ASCII."""
    target, model = tmp_path_factory.mktemp("labelled") / "r", build_model()
    export_model(
        model, {"": NATIVE_LABELS}, target, ExportOptions(shortest_side=SIDE, parity_video=parity_video)
    )
    return target


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_command(
    *words: str | bytes | Path, redirection: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", f'"$@" {redirection}', "bash", *SFAVIVIT, *words]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "latin-1"}], ids=["C", "latin-1"])
def test_a_video_where_the_locale_is_not_utf_8(
    labelled: Path, parity_video: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    video = os.fsencode(tmp_path) + b"/\xff\xe6\x97\xa5.mp4"
    os.link(parity_video, video)
    words = ("classify", video, "--repository", labelled)
    done = run_command(*words, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"default" in done.stdout and b"?" in done.stdout
    done = run_command(*words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert os.fsencode(answer["video"]) == video
    assert {score["label"] for score in answer["heads"]["default"][""]["labels"]} < set(NATIVE_LABELS)
    manifest = run_command("inspect", labelled, "--json", **environment)
    assert "日本語" not in manifest.stdout.decode("ascii")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 1, "error: cannot write: No space left on device; free space, or write elsewhere\n"),
        (">/dev/full 2>/dev/full", 1, ""),
        ("| true; exit ${PIPESTATUS[0]}", 1, ""),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_a_process_whose_output_fails(
    repository: Path, unbuffered: str, redirection: str, code: int, message: str
) -> None:
    done = run_command("inspect", repository, "--json", redirection=redirection, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.decode()) == (code, message)


def test_an_error_is_told_although_the_reader_left(tmp_path: Path) -> None:
    done = run_command("inspect", tmp_path, redirection="| true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 2 and b"is not a model repository" in done.stderr
