"""The command line: its list of commands, and that only the command which runs is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import COMMANDS, app, read_summary
from benchmarks.figures import ROOT

HEAVY = ("torch", "grpc", "onnxruntime", "matplotlib", "scipy", "pyarrow", "benchmarks.latency")


def test_help_imports_no_benchmark_and_nothing_heavy() -> None:
    program = (
        "import sys, benchmarks.__main__ as main\n"
        "try: main.app(['--help'])\n"
        f"finally: print(sorted(sys.modules.keys() & set({HEAVY})), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"
    for name in COMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_its_docstring(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.output
    command = import_module(f"benchmarks.{name.replace('-', '_')}").command
    assert " ".join(command.__doc__.split()) in " ".join(done.stdout.split())
    assert read_summary(name) == command.__doc__.splitlines()[0]


def test_an_unknown_command_is_refused() -> None:
    done = CliRunner().invoke(app, ["warp"])
    assert done.exit_code == 2
    assert "No such command 'warp'" in done.output
