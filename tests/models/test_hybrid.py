"""Hybrids, a ResNet in front of the spatial transformer: dimensions, timm's weights, checkpoints."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from sfavivit.config import ModelDimensions, TransformerDimensions, named_dimensions, validation_summary
from sfavivit.errors import CheckpointError, UsageError
from sfavivit.models.checkpoints import initialise_spatial, load_checkpoint, save_checkpoint
from sfavivit.models.vivit import SfaVivit
from tests.models.reference_hybrid import (
    SIDE,
    WIDTH,
    backbone_shapes,
    frames_of,
    hybrid,
    hybrid_model,
    hybrid_weights,
    small_hybrid,
)
from tests.models.reference_vit import assert_same


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SfaVivit:
    return hybrid_model(tmp_path_factory.mktemp("image"))


@pytest.mark.parametrize(
    ("blocks", "side", "tubelet_frames"),
    [((1, 1), 32, 1), ((1, 1), 32, 2), ((2, 1, 2), 64, 3), ((1,), 12, 2)],
)
def test_feature_is_the_image_hybrid_of_the_central_frame(
    blocks: tuple[int, ...], side: int, tubelet_frames: int, tmp_path: Path
) -> None:
    model = small_hybrid(blocks, side, tubelet_frames=tubelet_frames)
    weights = hybrid_weights(blocks, math.isqrt(model.dims.patches))
    save_file(weights, tmp_path / "x")
    initialise_spatial(model, tmp_path / "x")
    frames = torch.randint(0, 256, (1, 2 * tubelet_frames, side, side, 3), dtype=torch.uint8)
    frames[:, tubelet_frames:] = 127 + frames[:, tubelet_frames:] % 2  # so faint that the epsilons count
    central = frames[0, tubelet_frames // 2 :: tubelet_frames].permute(0, 3, 1, 2)
    expected = hybrid(weights, central / 127.5 - 1, blocks)
    with torch.inference_mode():
        features = model.spatial(frames)
    torch.testing.assert_close(features[0], expected, atol=1e-4, rtol=1e-4)


# Millions of parameters of an image hybrid with 1000 classes (timm's results-imagenet.csv).
PUBLISHED_MILLIONS = {("R50-L", 224): 328.99, ("R50-L", 384): 329.09, ("R50-B", 384): 98.95}


@pytest.mark.parametrize(("size", "side"), PUBLISHED_MILLIONS)
def test_published_hybrids_have_the_published_weights(size: str, side: int) -> None:
    dims = named_dimensions(size, {"": 400}, image_size=side)
    assert dims.resnet is not None
    with torch.device("meta"):
        spatial = SfaVivit(dims).spatial
    assert spatial.resnet is not None
    found = {f"patch_embed.backbone.{k}": tuple(v.shape) for k, v in spatial.resnet.named_parameters()}
    assert found == backbone_shapes({"R50-L": (3, 4, 6, 3), "R50-B": (3, 4, 9)}[size], 64)
    total = sum(parameter.numel() for parameter in spatial.parameters())
    other_frames = (dims.tubelet_frames - 1) * dims.resnet.channels * dims.hidden_size
    classifier = (dims.hidden_size + 1) * 1000
    millions = (total - other_frames + classifier) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[size, side], abs=0.005)
    assert dims.patches == (side // {"R50-L": 32, "R50-B": 16}[size]) ** 2


def test_plain_models_are_described_as_before_there_were_hybrids() -> None:
    text = (
        '{"hidden_size":32,"image_size":16,"patch_size":8,"tubelet_frames":2,'
        '"spatial":{"layers":4,"heads":4,"mlp_dim":512},"temporal":{"layers":1,"heads":4,"mlp_dim":512},'
        '"max_tubelets":4,"outputs":[["",3]],"adapter":null}'
    )
    assert ModelDimensions.from_json(text).to_json() == text
    hybrid_dims = small_hybrid().dims
    assert '"resnet":{"blocks":[1,1],"width":32}' in hybrid_dims.to_json()
    assert ModelDimensions.from_json(hybrid_dims.to_json()) == hybrid_dims


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ('"patch_size":8', '"patch_size":4', "patch size of a hybrid must be its ResNet's stride 8, got 4"),
        ('"image_size":32', '"image_size":36', "36 is not a multiple of 8"),
        ('"width":32}}', '"width":48}}', "48 is not a multiple of 32"),
        ("[1,1]", "[]", "resnet.blocks"),
        ("[1,1]", "[1048576]", "resnet.blocks"),
        ("[1,1]", "[1,1,1,1,1,1,1]", "resnet.blocks"),
    ],
)
def test_hybrids_that_cannot_be(part: str, change: str, message: str) -> None:
    text = small_hybrid().dims.to_json()
    assert part in text
    with pytest.raises(ValidationError) as caught:
        ModelDimensions.from_json(text.replace(part, change))
    assert message in validation_summary(caught.value)


def test_a_patch_size_that_is_not_the_stride_is_a_wrong_option() -> None:
    with pytest.raises(UsageError, match="size R-tiny: .* ResNet's stride 8, got 16"):
        named_dimensions("R-tiny", {"": 1}, patch_size=16)


@pytest.mark.parametrize("name", ["stem.conv.weight", "stages.1.blocks.0.downsample.norm.bias", "extra"])
def test_a_misfit_changes_nothing(name: str, model: SfaVivit, tmp_path: Path) -> None:
    weights = hybrid_weights((1, 1), 4)
    key = f"patch_embed.backbone.{name}"
    weights = {k: v for k, v in weights.items() if k != key} | (
        {key: torch.ones(1)} if name == "extra" else {}
    )
    save_file(weights, tmp_path / "x")
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match=key):
        initialise_spatial(model, tmp_path / "x")
    assert_same(model, before)
    plain = SfaVivit(named_dimensions("tiny", {"": 1}, hidden_size=WIDTH, image_size=SIDE))
    with pytest.raises(CheckpointError, match=r"unexpected patch_embed\.backbone"):
        initialise_spatial(plain, tmp_path / "x")


def test_native_checkpoint(model: SfaVivit, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert loaded.dims == model.dims
    assert_same(loaded, model)


def test_the_transformer_alone_is_narrowed(model: SfaVivit) -> None:
    """Replacing parts of a named hybrid, as recipes do, leaves its ResNet."""
    narrow = replace(model.dims, spatial=TransformerDimensions(1, 4, 64))
    assert SfaVivit(narrow)(frames_of(1, 2))[""].shape == (1, 5)
