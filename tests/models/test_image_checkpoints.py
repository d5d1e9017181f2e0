"""A ViT image checkpoint as the start of the spatial half."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import initialise_spatial
from sfavivit.models.vivit import interpolate_positions
from tests.make_golden import DATA
from tests.models.checkpoint_support import small_model
from tests.models.reference_vit import WIDTH, assert_same, image_weights, vit


def write(path: Path, content: Any, *, form: str = "safetensors") -> Path:
    if form == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("tubelet_frames", [1, 2, 3, 4])
def test_feature_is_the_image_vit_of_the_central_frame(tubelet_frames: int, tmp_path: Path) -> None:
    weights = image_weights()
    model = small_model(tubelet_frames=tubelet_frames)
    initialise_spatial(model, write(tmp_path / "x", weights))
    frames = torch.randint(0, 256, (1, 2 * tubelet_frames, 16, 16, 3), dtype=torch.uint8)
    central = frames[0, tubelet_frames // 2 :: tubelet_frames]
    expected = vit(weights, central.permute(0, 3, 1, 2) / 127.5 - 1)
    with torch.inference_mode():
        features = model.spatial(frames)
    assert features.shape == (1, 2, WIDTH)
    torch.testing.assert_close(features[0], expected, atol=1e-4, rtol=1e-4)


def test_other_image_size_interpolates_positions(tmp_path: Path) -> None:
    weights = image_weights(side=5)
    model = small_model()
    initialise_spatial(model, write(tmp_path / "x", weights))
    expected = interpolate_positions(weights["pos_embed"], (5, 5), (2, 2))
    assert torch.equal(model.spatial.encoder.pos, expected)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_pickled_weights(wrapper: str | None, tmp_path: Path) -> None:
    weights = image_weights()
    model, reference = small_model(), small_model()
    content = {wrapper: weights, "epoch": 3} if wrapper else weights
    initialise_spatial(model, write(tmp_path / "x", content, form="torch"))
    initialise_spatial(reference, write(tmp_path / "y", weights))
    assert_same(model, reference)


def test_only_the_spatial_half_changes_and_stays_frozen(tmp_path: Path) -> None:
    model, before = small_model().freeze_spatial(), small_model()
    initialise_spatial(model, write(tmp_path / "x", image_weights()))
    assert not any(parameter.requires_grad for parameter in model.spatial.parameters())
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor, before.state_dict()[name])
        assert same != name.startswith("spatial."), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.weight": None}, "misses norm.weight"),
        ({"cls_token": None}, "misses cls_token"),
        ({"pos_embed": None}, r"pos_embed: expected shape .* found \[0\]"),
        ({"pos_embed": torch.zeros(1, 4, WIDTH)}, r"found \[1, 4, 32\]"),
        ({"pos_embed": torch.zeros(1, 5, 8)}, r"found \[1, 5, 8\]"),
        ({"blocks.0.ls1.gamma": torch.zeros(WIDTH)}, r"unexpected blocks\.0\.ls1\.gamma"),
        ({"blocks.4.norm1.weight": torch.zeros(WIDTH)}, r"unexpected blocks\.4"),
        ({"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 16, 16)}, r"found \[32, 3, 16, 16\]"),
        ({"patch_embed.proj.bias": torch.full((WIDTH,), torch.nan)}, "bias has NaN"),
        ({"norm.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "int64"),
    ],
)
def test_misfit_changes_nothing(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    weights = {k: v for k, v in (image_weights() | change).items() if v is not None}
    model = small_model()
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        initialise_spatial(model, write(tmp_path / "x", weights))
    assert str(tmp_path / "x") in str(caught.value)
    assert_same(model, before)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this model is a ViViT, a video model"):
        initialise_spatial(small_model(), DATA / "scenic_golden.msgpack")
    with pytest.raises(CheckpointError, match="expected named weights, found list"):
        initialise_spatial(small_model(), write(tmp_path / "x", [1], form="torch"))
    with pytest.raises(CheckpointError, match="expected a tensor, found int"):
        initialise_spatial(small_model(), write(tmp_path / "x", {"cls_token": 1}, form="torch"))
