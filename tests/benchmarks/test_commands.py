"""The command line: its list of commands, and that only the command which runs is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS, read_summary
from benchmarks.figures import ROOT
from sfavivit.errors import RepositoryError, UsageError
from tests.benchmarks.support import invoke, refusal

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
    done = invoke(name, "--help")
    assert done.exit_code == 0, done.output
    command = import_module(f"benchmarks.{name.replace('-', '_')}").command
    assert " ".join(command.__doc__.split()) in " ".join(done.stdout.split())
    assert read_summary(name) == command.__doc__.splitlines()[0]


def test_an_unknown_command_is_refused() -> None:
    done = invoke("warp")
    assert done.exit_code == 2
    assert "No such command 'warp'" in done.output


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("latency --engine warp", "warp"),
        ("latency --precision fp7", "fp7"),
        ("latency --size XXL", "XXL"),
        ("latency --frames 256", "20.48 s"),
        ("latency --size tiny --frames 8 --engine tensorrt --precision fp32", "none of"),
        ("long --overlap 0.3 --seconds 1 --frames 8", "0.3"),
        ("memory --seconds 25 --frames 8", "25"),
        ("latency --device cuda --engine triton", "triton"),
        ("latency --device cuda --engine tpu", "'tpu'"),
        ("latency --device cuda --size huge", "'huge'"),
        ("latency --device cuda --precision int8", "int8"),
        ("latency --device cuda --frames 8", "--frames"),
        ("limit --size tiny --precision fp64", "'fp64'"),
        ("peers --size huge", "huge"),
        ("peers --size R50-B", "R50-B"),
        ("peers --size tiny --frames 7", "7"),
        ("pipeline --size XXL", "XXL"),
    ],
)
def test_a_wrong_option_is_one_line(options: str, word: str, tmp_path: Path) -> None:
    error = refusal(*options.split(), "--out", tmp_path)
    assert isinstance(error, UsageError)
    assert word in str(error)
    assert not list(tmp_path.iterdir())


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    error = refusal("cold", "--repository", "nowhere", "--out", tmp_path)
    assert isinstance(error, RepositoryError)
    assert "nowhere" in str(error)
    assert not list(tmp_path.iterdir())
