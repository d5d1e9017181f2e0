"""The committed demo model, the sample video, and the output of `make demo`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from sfavivit import Recognizer, Repository

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs" / "motions.mp4"
MOTIONS = ["moving left", "rotating clockwise", "bouncing", "growing", "circling counterclockwise"]
CUTS_SECONDS = [0, 10, 20, 30, 40, 50]


def test_the_timeline_finds_the_motions_of_the_sample_video() -> None:
    answer = Recognizer.load(ROOT / "model_repository").classify(SAMPLE)
    timeline = answer.heads["default"][""].timeline
    assert [segment.label for segment in timeline] == MOTIONS
    edges = [0.0, *(segment.end_seconds for segment in timeline)]
    assert all(abs(edge - cut) <= 1.28 for edge, cut in zip(edges, CUTS_SECONDS, strict=True))
    assert answer.warning is None


def test_make_demo_needs_no_torch() -> None:
    """The command of `make demo`, in a Python in which the development packages cannot be imported."""
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"\$\(BIN\)/sfavivit (classify .*)", makefile)
    assert command
    blocked = (
        "torch",
        "onnx",
        "pyarrow",
        "matplotlib",
        "PIL",
        "ray",
        "grpc",
        "tritonclient",
        "tensorrt",
        "msgpack",
        "prometheus_client",
    )
    code = f"import sys; sys.modules |= dict.fromkeys({blocked}); from sfavivit.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command[1].split(), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    labels = [segment["label"] for segment in json.loads(done.stdout)["heads"]["default"][""]["timeline"]]
    assert labels == MOTIONS


def test_the_readme_shows_what_is_printed() -> None:
    shown = re.search(r"    make demo\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    done = subprocess.run(
        [sys.executable, "-m", "sfavivit.cli.main", "classify", str(SAMPLE.relative_to(ROOT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    # Times, the device and the last digit of a probability are the machine's.
    noise = re.compile(r"\d+\.\d+ s on \S+ \(.*?\)|\.\d%|\s")
    assert noise.sub("", shown[1]) == noise.sub("", done.stdout)


def test_the_demo_model_is_small() -> None:
    manifest = Repository.load(ROOT / "model_repository").manifest
    assert sum(entry.bytes for entry in manifest.files.values()) < 8_000_000
