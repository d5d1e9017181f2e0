"""The model to export: a checkpoint, a folder that holds one, or a repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from export.__main__ import app
from export.source import read_source
from sfavivit.cli.run import run_app
from sfavivit.errors import SfaVivitError
from sfavivit.models.checkpoints import KnownDimensions, save_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Repository
from tests.conftest import build_model


def folder_of(path: Path, model: SfaVivit, *names: str, config: object = None) -> Path:
    path.mkdir()
    for name in names:
        save_checkpoint(model, path / name)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("config", [None, {"hidden_size": 1}, [1]])
def test_a_folder_with_one_file_of_weights(config: object, tmp_path: Path) -> None:
    model = build_model()
    source = read_source(folder_of(tmp_path / "x", model, "model.safetensors", config=config), [], None)
    assert source.model.dims == model.dims and source.sampling is None


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (
            ["model.safetensors"],
            {"model_type": "vivit"},
            "Hugging Face folder of the model 'vivit', which is",
        ),
        (["a.pt", "b.safetensors"], None, "several files of weights; give one: a.pt, b.safetensors$"),
        (
            [],
            None,
            "expected a checkpoint file, or a model repository with manifest.json; found a directory$",
        ),
        ([], {"x": 1}, "found a Hugging Face folder; give the weights in it"),
    ],
)
def test_a_folder_of_something_else(names: list[str], config: object, message: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", build_model(), *names, config=config)
    with pytest.raises(SfaVivitError, match=message) as caught:
        read_source(folder, [], None)
    assert "python -m export" not in str(caught.value)


@pytest.mark.parametrize(
    ("known", "key", "head", "message"),
    [
        (KnownDimensions("B"), None, None, "--size B has hidden size 768, the checkpoint"),
        (None, "ema", None, "--from-key ema is for a checkpoint"),
        (None, None, "other", "other"),
    ],
)
def test_options_that_do_not_fit_a_repository(
    known: KnownDimensions | None, key: str | None, head: str | None, message: str, repository: Path
) -> None:
    with pytest.raises(SfaVivitError, match=message):
        read_source(repository, [], head, known, key)


def test_a_training_frameworks_checkpoint_is_exported(
    parity_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: what is missing is asked for, and the answer makes a repository."""
    model = build_model()
    weights = {f"module.{name}": tensor.bfloat16() for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights, "ema": dict(weights), "epoch": 1}, tmp_path / "x.pt")
    target = tmp_path / "repository"

    def export(*options: str) -> tuple[int, str]:
        arguments = [str(tmp_path / "x.pt"), str(target), "--parity-video", str(parity_video), *options]
        monkeypatch.setattr("sys.argv", ["export", *arguments])
        with pytest.raises(SystemExit) as caught:
            run_app(app)
        return int(caught.value.code or 0), " ".join(capsys.readouterr().err.split())

    code, message = export()
    assert code and "choose one with --from-key: state_dict, ema" in message
    code, message = export("--from-key", "ema")
    assert code and "attention heads: --heads 1, 2" in message and "--tubelet-frames" in message
    assert not target.exists()
    dims = model.dims
    code, message = export(
        *("--from-key", "ema", "--heads", str(dims.spatial.heads)),
        *("--temporal-heads", str(dims.temporal.heads), "--tubelet-frames", str(dims.tubelet_frames)),
    )
    assert code == 0, message
    assert Repository.load(target).manifest.heads["default"].dimensions == dims
