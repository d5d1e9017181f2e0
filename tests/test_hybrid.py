"""Hybrids, a ResNet in front of the spatial transformer: from timm's weights to a served repository."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from export.exporter import ExportOptions, export_model
from export.graphs import spatial_graph
from export.outputs import label_outputs
from export.source import read_source
from export.writer import write_engine
from sfavivit import Recognizer, Repository
from sfavivit.checkpoints import initialise_spatial, load_checkpoint, save_checkpoint
from sfavivit.dimensions import (
    ModelDimensions,
    ResNetDimensions,
    TransformerDimensions,
    named_dimensions,
    validation_summary,
)
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.errors import CheckpointError, UsageError
from sfavivit.model import SfaVivit
from sfavivit.repository import Precision
from tests.test_export import cosines, numpy_state
from tests.test_image_checkpoints import assert_same, encode, image_weights
from tests.training.support import batch, cpu_trainer, kept_by_spatial_half, one_thread, same, toy_recipe
from tests.video_files import encode as encode_video
from training.config import RegularisationConfig
from training.loss import ClipLoss
from training.stages import stage_model

__all__ = ["one_thread"]  # for every test here

WIDTH, RESNET_WIDTH, SIDE = 32, 32, 32

# --- an independent statement of the architecture --------------------------------------------------------


def backbone_shapes(blocks: tuple[int, ...], width: int) -> dict[str, tuple[int, ...]]:
    """timm's names of the ResNet's weights.

    As listed in Hugging Face's conversion of ViT hybrids (``convert_vit_hybrid_timm_to_pytorch.py``).
    """
    shapes: dict[str, tuple[int, ...]] = {"stem.conv.weight": (width, 3, 7, 7)}
    norms = {"stem.norm": width}
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        outer = 4 * inner
        for block in range(count):
            name = f"stages.{stage}.blocks.{block}"
            shapes[f"{name}.conv1.weight"] = (inner, inputs, 1, 1)
            shapes[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{name}.conv3.weight"] = (outer, inner, 1, 1)
            norms |= {f"{name}.norm1": inner, f"{name}.norm2": inner, f"{name}.norm3": outer}
            if block == 0:
                shapes[f"{name}.downsample.conv.weight"] = (outer, inputs, 1, 1)
                norms[f"{name}.downsample.norm"] = outer
            inputs = outer
    for name, channels in norms.items():
        shapes |= {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    return {f"patch_embed.backbone.{name}": shape for name, shape in shapes.items()}


def hybrid_weights(blocks: tuple[int, ...], tokens_side: int) -> dict[str, Tensor]:
    """A random hybrid in timm naming: a ViT of ``test_image_checkpoints`` on a ResNet's feature maps."""
    generator = torch.Generator().manual_seed(5)
    weights = image_weights(tokens_side)
    channels = RESNET_WIDTH * 4 << (len(blocks) - 1)
    weights["patch_embed.proj.weight"] = torch.randn(WIDTH, channels, 1, 1, generator=generator) * 0.1
    for name, shape in backbone_shapes(blocks, RESNET_WIDTH).items():
        mean = 1.0 if name.endswith("weight") and len(shape) == 1 else 0.1
        weights[name] = mean + 0.3 * torch.randn(shape, generator=generator)
        if len(shape) == 4:  # filters of all sizes: standardisation makes them alike, but for its epsilon
            weights[name] *= 10 ** -(3 * torch.rand(shape[0], 1, 1, 1, generator=generator))
    return weights


def padded(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """TensorFlow's SAME: outputs ceil(n / stride), what the input lacks for them split, the odd one last."""
    n = x.shape[-1]
    lacking = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
    sides = (lacking // 2, lacking - lacking // 2)
    return F.pad(x, sides * 2, value=value)


def standardised(kernel: Tensor) -> Tensor:
    """Each filter of [O, I, k, k] with mean 0 and variance 1, in float64."""
    centred = kernel.double() - kernel.double().mean(dim=(1, 2, 3), keepdim=True)
    return centred / ((centred**2).mean(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()


def resnet(w: Mapping[str, Tensor], x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """BiT's ResNet (arXiv 1912.11370): standardised weights (1903.10520), group norm (1803.08494, eq. 1)."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = standardised(w[f"patch_embed.backbone.{conv}.weight"])
        y = F.conv2d(padded(x, kernel.shape[-1], stride, 0.0), kernel, stride=stride)
        groups = y.reshape(len(y), 32, -1)
        centred = groups - groups.mean(dim=2, keepdim=True)
        y = (centred / ((centred**2).mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(y.shape)
        scale, bias = (w[f"patch_embed.backbone.{norm}.{part}"].view(-1, 1, 1) for part in ("weight", "bias"))
        return y * scale + bias

    x = conv_norm(x.double(), "stem.conv", "stem.norm", 2).relu()
    x = F.max_pool2d(padded(x, 3, 2, -math.inf), 3, 2)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"stages.{stage}.blocks.{block}"
            stride = 2 if stage and not block else 1
            down = f"{name}.downsample"
            shortcut = x if block else conv_norm(x, f"{down}.conv", f"{down}.norm", stride)
            x = conv_norm(x, f"{name}.conv1", f"{name}.norm1").relu()
            x = conv_norm(x, f"{name}.conv2", f"{name}.norm2", stride).relu()
            x = (conv_norm(x, f"{name}.conv3", f"{name}.norm3") + shortcut).relu()
    return x.float()


def hybrid(w: Mapping[str, Tensor], images: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] -> class token [N, D]."""
    maps = resnet(w, images, blocks)
    return encode(dict(w), F.conv2d(maps, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]))


# --- dimensions and weights ------------------------------------------------------------------------------


def small_hybrid(blocks: tuple[int, ...] = (1, 1), side: int = SIDE, **overrides: Any) -> SfaVivit:
    """``R-tiny`` with a narrow transformer and ``blocks``; random weights, always the same."""
    torch.manual_seed(0)
    part = ResNetDimensions(blocks, width=RESNET_WIDTH)
    shape: dict[str, Any] = {"resnet": part, "patch_size": part.stride, "hidden_size": WIDTH} | overrides
    dims = named_dimensions("R-tiny", {"": 5}, frames=8, temporal_layers=1, image_size=side, **shape)
    return SfaVivit(dims).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SfaVivit:
    """With weights under which every layer matters."""
    file = tmp_path_factory.mktemp("image") / "hybrid.safetensors"
    save_file(hybrid_weights((1, 1), 4), file)
    found = small_hybrid()
    initialise_spatial(found, file)
    with torch.no_grad():
        found.spatial.patch_embed.weight.normal_(0, 0.1)  # both frames of a tubelet count
        for parameter in found.temporal.parameters():
            parameter.normal_(0, 0.15)
    return found


def frames_of(batch_size: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch_size, count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


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


# --- training --------------------------------------------------------------------------------------------


def test_both_stages_from_an_image_hybrid(tmp_path: Path) -> None:
    """Stage I trains the ResNet too; stage II freezes it, keeps no activation of it and changes nothing."""
    recipe = toy_recipe(tmp_path, "model.size=R-tiny", "model.patch_size=8", "stages.0.spatial=image")
    weights = hybrid_weights((1, 1), 4)
    weights = {
        name: value for name, value in weights.items() if not name.startswith(("blocks.2", "blocks.3"))
    }
    save_file(weights, tmp_path / "hybrid.safetensors")
    first = stage_model(recipe, recipe.stages[0], None, tmp_path / "hybrid.safetensors")
    assert first.spatial.resnet is not None
    stem = weights["patch_embed.backbone.stem.conv.weight"]
    assert torch.equal(first.spatial.resnet.stem.conv.weight, stem)
    before = copy.deepcopy(first.spatial.resnet)
    clips = batch()
    clips.frames = clips.frames[:, :4]
    list(cpu_trainer(ClipLoss(first, RegularisationConfig(stochastic_depth=0.1))).steps([[clips]] * 2))
    pairs = zip(before.parameters(), first.spatial.resnet.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)

    second = stage_model(recipe, recipe.stages[1], first, None)
    assert same(second.spatial, first.spatial)
    frozen = copy.deepcopy(second.spatial)
    trainer = cpu_trainer(ClipLoss(second, RegularisationConfig()))
    assert kept_by_spatial_half(second, lambda: list(trainer.steps([[batch()]]))) == 0
    assert same(second.spatial, frozen)
    assert all(parameter.grad is None for parameter in second.spatial.parameters())
    assert not list(second.spatial.buffers()), "no running statistics that training could move"


# --- export ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines(model: SfaVivit, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, OnnxModel]:
    folder = tmp_path_factory.mktemp("engines")
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    for precision in precisions:
        built = spatial_graph(model.dims, numpy_state(model.spatial), precision)
        write_engine(folder / precision, built, "onnxruntime")
    return {precision: OnnxModel(folder / precision / "model.onnx") for precision in precisions}


@pytest.mark.parametrize(("batch_size", "tubelets"), [(1, 1), (2, 3)])
def test_graph_equals_pytorch(
    model: SfaVivit, engines: dict[Precision, OnnxModel], batch_size: int, tubelets: int
) -> None:
    frames = frames_of(batch_size, 2 * tubelets)
    with torch.inference_mode():
        expected = model.spatial(frames).numpy()
    found = {name: engine.run({"FRAMES": frames.numpy()})["FEATURES"] for name, engine in engines.items()}
    np.testing.assert_allclose(found["fp32"], expected, atol=5e-5)
    # A width of 32 averages little out.
    assert cosines(found["fp16"], expected).min() > 0.9999
    assert cosines(found["int8"], expected).min() > 0.995


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tubelet_does_not_see_the_others_in_its_batch(
    engines: dict[Precision, OnnxModel], precision: Precision
) -> None:
    tubelet, loud = frames_of(1, 2).numpy(), np.full((1, 6, SIDE, SIDE, 3), 255, np.uint8)
    alone = engines[precision].run({"FRAMES": tubelet})["FEATURES"][0, 0]
    together = engines[precision].run({"FRAMES": np.concatenate([loud, tubelet], 1)})["FEATURES"][0, -1]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_graph_is_standard_onnx(model: SfaVivit, tmp_path: Path) -> None:
    """The checker accepts it, and ONNX's own reference evaluator, an independent one, agrees."""
    weights = numpy_state(model.spatial)
    write_engine(tmp_path / "1", spatial_graph(model.dims, weights, "fp32"), "onnxruntime")
    file = tmp_path / "1" / "model.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    frames = frames_of(1, 2)
    reference: Any = ReferenceEvaluator(onnx.load(str(file))).run(None, {"FRAMES": frames.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(reference[0], model.spatial(frames).numpy(), atol=1e-4)


@pytest.mark.parametrize(("precision", "cast_first"), [("fp16", False), ("int8", False), ("fp32", True)])
def test_all_but_an_fp32_repository_hold_standardised_weights(
    model: SfaVivit, precision: Precision, cast_first: bool
) -> None:
    weights = numpy_state(model.spatial)
    built = spatial_graph(model.dims, weights, precision, cast_first=cast_first)
    for node in built.graph.node:
        assert node.op_type != "Conv" or node.input[1] in built.initializers
    name = "resnet.stages.1.blocks.0.conv2.weight"
    expected = standardised(torch.from_numpy(weights[name])).numpy()
    np.testing.assert_allclose(built.stored[name], expected, atol=1e-6 if precision != "fp16" else 4e-3)
    assert not any("resnet" in name and "int8" in name for name in built.stored)  # floats in int8 too
    kept = spatial_graph(model.dims, weights, "fp32").stored
    assert all(np.array_equal(kept[name], value) for name, value in weights.items())


def test_from_export_to_recognition_and_back(model: SfaVivit, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 12, (40, 8, 8, 3)).cumsum(0) + 128
    frames = np.clip(steps, 0, 255).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    video = encode_video(tmp_path / "x.mp4", frames)
    target = tmp_path / "repository"
    summary = export_model(
        model, label_outputs(model, {}), target, ExportOptions(shortest_side=SIDE, parity_video=video)
    )
    assert summary.parity.temporal.max_abs_error < 1e-4
    assert Repository.load(target).manifest.dimensions == model.dims
    recognizer = Recognizer.load(target)
    clip = frames[:8, :SIDE, :SIDE]
    expected = model(torch.from_numpy(clip)[None])[""].detach().numpy()[0]
    features = recognizer.features(clip)
    found = recognizer.engine.temporal("default", features[None])[""][0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    reference = Recognizer.load(target, engine="torch").features(clip)
    np.testing.assert_allclose(features, reference, atol=1e-4)
    assert len(recognizer.classify(video).heads["default"][""].labels) == 5

    again = read_source(target, [], None).model
    assert_same(again, model)
    export_model(
        again, label_outputs(again, {}), target, ExportOptions(head="again", frames=4, parity_video=video)
    )
    assert set(Repository.load(target).manifest.heads) == {"default", "again"}


def test_the_transformer_alone_is_narrowed(model: SfaVivit) -> None:
    """Replacing parts of a named hybrid, as recipes do, leaves its ResNet."""
    narrow = replace(model.dims, spatial=TransformerDimensions(1, 4, 64))
    assert SfaVivit(narrow)(frames_of(1, 2))[""].shape == (1, 5)
