"""``--device cuda`` where there is no CUDA: every command that computes refuses, and none falls back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import typer

import benchmarks.__main__
import export.__main__
import serving.__main__
import sfavivit.cli.main
import training.__main__
from sfavivit.engines.onnxruntime import has_cuda
from sfavivit.errors import EngineError
from tests.commands import run_here
from training.hardware import make_fabric

pytestmark = pytest.mark.skipif(
    has_cuda() or torch.cuda.is_available(), reason="packages with CUDA are installed"
)
APPS: dict[str, typer.Typer] = {
    "sfavivit": sfavivit.cli.main.app,
    "export": export.__main__.app,
    "serving": serving.__main__.app,
    "training": training.__main__.app,
    "benchmarks": benchmarks.__main__.app,
}


@pytest.mark.parametrize(
    "line",
    [
        "sfavivit classify VIDEO --repository REPOSITORY",
        "sfavivit inspect REPOSITORY",
        "sfavivit score LIST --out OUT --repository REPOSITORY",
        "sfavivit features LIST --store OUT --repository REPOSITORY",
        "serving serve --repository REPOSITORY --port 0 --metrics-port -1",
        "export REPOSITORY OUT --from-head default",
        "training head --manifest LIST --repository REPOSITORY --name new --store STORE --out OUT",
        "benchmarks stills --size tiny --precision fp32 --seconds 1 --out OUT",
    ],
)
def test_no_command_falls_back(line: str, repository: Path, parity_video: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    second = shutil.copy(parity_video, tmp_path)
    listed.write_text(f"video,label\n{parity_video},class 0\n{second},class 1\n")
    places = {"VIDEO": parity_video, "LIST": listed, "REPOSITORY": repository}
    places |= {"OUT": tmp_path / "out", "STORE": tmp_path / "store"}
    program, *words = line.split()
    done = run_here(APPS[program], *(places.get(word, word) for word in words), "--device", "cuda")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search("cannot use cuda: (the installed package is the one for CPUs|Torch not)", done.stderr)
    assert not list((tmp_path / "out").rglob("*.parquet")) and not list(tmp_path.rglob("manifest.json"))


def test_training_on_cuda() -> None:
    with pytest.raises(EngineError, match="PyTorch cannot use cuda: Torch not compiled"):
        make_fabric("cuda")
    assert make_fabric("auto").device.type == "cpu"
