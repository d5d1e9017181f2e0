"""The command itself, and ``sfavivit inspect``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from typer.testing import CliRunner

from sfavivit.cli.main import app
from tests.cli.support import run


def test_inspect(repository: Path) -> None:
    done = run("inspect", repository)
    assert done.returncode == 0
    for text in ("12.5 fps", "verb 5, noun 3", "digests verified", "fp32", "device cpu", "windows of 3, 12"):
        assert text in " ".join(done.stdout.split())
    assert json.loads(run("inspect", repository, "--json").stdout)["format_version"] == 1
    assert run("inspect", repository / "sfavivit_spatial").returncode == 2


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, version("sfavivit") + "\n")
