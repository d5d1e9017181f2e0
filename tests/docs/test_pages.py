"""Pages of docs/ whose commands and examples are run as a reader would."""

from __future__ import annotations

import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import sfavivit
from export.__main__ import app as export_app
from sfavivit.cli.main import app
from sfavivit.repository.manifest import Repository
from tests.commands import run_here
from tests.docs.markdown import ROOT, SHELL, blocks

DOCS = ROOT / "docs"
API = DOCS / "reference" / "api.md"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sample video and the demo model, as the working directory."""
    (tmp_path / "docs").mkdir()
    for name in ("docs/motions.mp4", "model_repository"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_scoring(checkout: Path) -> None:
    """Run its commands in order on its list, without Ray, and then its example in Python."""
    page = blocks(DOCS / "scoring.md")
    (video_list,) = (block.text for block in page if block.language == "csv")
    (checkout / "videos.csv").write_text(video_list)
    lines = [line for block in page if block.language in SHELL for line in block.text.splitlines()]
    run = [shlex.split(line)[1:] for line in lines if line.startswith("sfavivit ") and "--ray" not in line]
    outputs = {" ".join(words): run_here(app, *words) for words in run}
    assert len(outputs) == len(run) >= 9
    failed = {line: done.stderr for line, done in outputs.items() if done.returncode}
    assert failed == {}

    first, *_ = (line for line in outputs if line.startswith("score "))
    (shown,) = (block.text for block in page if block.language == "text")
    assert _without_times(outputs[first].stdout) == _without_times(shown)
    for file in ("rows", "metrics.json", "per_class_default.csv", "confusion_default.png", "job.json"):
        assert (checkout / "runs" / "scores" / file).exists()

    printed = _run_python(DOCS / "scoring.md")
    assert printed.splitlines()[0] == "docs/motions.mp4@0-10 ['moving left'] None"


def test_the_page_on_localisation(checkout: Path) -> None:
    page = blocks(DOCS / "localisation.md")
    (true,) = (block.text for block in page if block.language == "csv")
    (checkout / "segments.csv").write_text(true)
    first, export = (block.text.split("\n") for block in page if block.language == "")
    classify, evaluate = (shlex.split(line)[1:] for line in first[:2])
    (checkout / classify.pop()).write_text(run_here(app, *classify[:-1]).stdout)
    shown, printed = (block.text.split() for block in page if block.language == "text")
    assert run_here(app, *evaluate).stdout.split() == shown
    assert _run_python(DOCS / "localisation.md").split() == printed
    assert run_here(export_app, *shlex.split(export[0])[3:]).returncode == 0
    timeline = Repository.load(checkout / "runs/repository").manifest.heads["default"].timeline
    assert timeline == Repository.load(checkout / "model_repository").manifest.heads["default"].timeline


def _without_times(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()[1:]]


@pytest.mark.usefixtures("checkout")
def test_the_examples_of_the_python_api() -> None:
    lines = _run_python(API).splitlines()
    assert lines[0] == "['rotating clockwise', 'bouncing']"
    assert len(lines) > 3


def test_the_reference_has_all_public_names() -> None:
    reference = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    names = [name for name in sfavivit.__all__ if not name.endswith(("Error", "__"))]  # errors: by module
    missing = [name for name in names if f"::: sfavivit.{name}\n" not in reference]
    assert missing == []


def _run_python(page: Path) -> str:
    """What the examples in Python of a page print."""
    output = StringIO()
    with redirect_stdout(output):
        for block in blocks(page):
            if block.language == "python":
                exec(block.text, {})
    return output.getvalue()
