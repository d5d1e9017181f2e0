"""Checkpoints as training frameworks save them: weights found, dimensions read from shapes or asked for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sfavivit.config import (
    HYBRIDS,
    SIZES,
    AdapterDimensions,
    ModelDimensions,
    ResNetDimensions,
    TransformerDimensions,
    named_dimensions,
)
from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import KnownDimensions, load_checkpoint, save_checkpoint
from sfavivit.models.checkpoints.shapes import read_dimensions
from sfavivit.models.vivit import SfaVivit
from tests.make_golden import DATA
from tests.models.checkpoint_support import SAME_FOLDER, small_model
from tests.models.reference_vit import assert_same

State = dict[str, Tensor]
KNOWN = KnownDimensions(heads=4, tubelet_frames=2)  # small_model's, which its shapes leave open
WRAPPERS = ("", "module.", "model.", "_orig_mod.", "model._orig_mod.", "_forward_module.model.", "net.")


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def optimizer(state: State) -> dict[str, Any]:
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": tensor * 0} for i, tensor in enumerate(state.values())
    }
    return {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "optimizer": optimizer(s), "epoch": 3},
        lambda s: {
            "model": s,
            "optimizer": optimizer(s),
            "args": Namespace(out=Path("runs")),
            "best": np.float64(0.5),
        },
        lambda s: {"module": s},
        lambda s: {
            "state_dict": s | {"criterion.weight": torch.ones(2)}
            if next(iter(s)).startswith(("model", "net"))
            else s,
            "pytorch-lightning_version": "2.5.0",
            "optimizer_states": [optimizer(s)],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
            "hyper_parameters": {"lr": 0.1},
        },
        lambda s: {"app": {"model": s}},
    ],
    ids=["bare", "state_dict", "model", "deepspeed", "lightning", "nested"],
)
def test_frameworks(prefix: str, wrap: Callable[[State], Any], tmp_path: Path) -> None:
    model = small_model()
    torch.save(wrap(prefixed(prefix, model.state_dict())), tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "x", KNOWN)
    assert loaded.dims == model.dims
    assert_same(loaded, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_model().to(dtype)
    save_file(prefixed("module.", model.state_dict()), tmp_path / "x")
    assert_same(load_checkpoint(tmp_path / "x", KNOWN), model.float())


def test_modules_wrapped_inside(tmp_path: Path) -> None:
    model = small_model()
    state = {n.replace("patch_embed.", "_orig_mod.patch_embed."): t for n, t in model.state_dict().items()}
    state = {n.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): t for n, t in state.items()}
    torch.save(state, tmp_path / "x")
    assert_same(load_checkpoint(tmp_path / "x", KNOWN), model)
    torch.save(state | {"module.spatial.encoder.cls": torch.zeros(1)}, tmp_path / "x")
    refused(tmp_path / "x", "holds a weight twice", KNOWN)


# --- several sets of weights -----------------------------------------------------------------------------


def two_models() -> tuple[SfaVivit, SfaVivit]:
    model, ema = small_model(), small_model()
    with torch.no_grad():
        for parameter in ema.parameters():
            parameter.mul_(0.5)
    return model, ema


@pytest.mark.parametrize(
    ("content", "key", "names"),
    [
        (lambda m, e: {"model": m, "ema": e}, "ema", "model, ema"),
        (lambda m, e: {"model": m, "model_ema": prefixed("module.", e)}, "model_ema", "model, model_ema"),
        (lambda m, e: {"state_dict": m, "state_dict_ema": e}, "state_dict_ema", "state_dict, state_dict_ema"),
        (
            lambda m, e: {"state_dict": prefixed("net.", m) | prefixed("ema.model.", e)},
            "ema",
            "state_dict/ema/model, state_dict/net",
        ),
        (
            lambda m, e: {"state_dict": m | prefixed("ema.", e)},
            "state_dict/ema",
            "state_dict, state_dict/ema",
        ),
        (lambda m, e: {**m, "ema": {"shadow": e}}, "shadow", "., ema/shadow"),
    ],
)
def test_one_of_several_sets(
    content: Callable[[State, State], Any], key: str, names: str, tmp_path: Path
) -> None:
    model, ema = two_models()
    torch.save(content(model.state_dict(), ema.state_dict()), tmp_path / "x")
    refused(tmp_path / "x", f"several sets of weights; choose one with --from-key: {names}$", KNOWN)
    assert_same(load_checkpoint(tmp_path / "x", KNOWN, key), ema)
    assert_same(load_checkpoint(tmp_path / "x", KNOWN, names.split(", ")[-1 if "net" in names else 0]), model)
    with pytest.raises(CheckpointError, match=f"one set of weights named 'best'; there are: {names}$"):
        load_checkpoint(tmp_path / "x", KNOWN, "best")


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": small_model().state_dict()}
    content |= {f"self{i}": content for i in range(500)}
    torch.save(content, tmp_path / "x")
    assert load_checkpoint(tmp_path / "x", KNOWN).dims == small_model().dims


# --- dimensions from shapes ------------------------------------------------------------------------------

transformer = st.builds(
    TransformerDimensions,
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    mlp_dim=st.integers(1, 9),
)


adapters = st.builds(
    AdapterDimensions, st.integers(1, 9), st.sampled_from(["gelu", "relu"]), residual=st.booleans()
)


@st.composite
def dimensions(draw: st.DrawFn) -> ModelDimensions:
    resnet = draw(st.none() | st.just(ResNetDimensions((1, 2), width=32)))
    patch = resnet.stride if resnet else draw(st.integers(1, 6))
    names = draw(st.sampled_from([("",), ("verb", "noun")]))
    return ModelDimensions(
        hidden_size=draw(st.sampled_from([4, 8, 12])),
        image_size=patch * draw(st.integers(1, 3)),
        patch_size=patch,
        tubelet_frames=draw(st.integers(1, 4)),
        spatial=draw(transformer),
        temporal=draw(transformer),
        max_tubelets=draw(st.integers(1, 5)),
        outputs=tuple((name, draw(st.integers(1, 5))) for name in names),
        adapter=draw(st.none() | adapters),
        resnet=resnet,
    )


@settings(SAME_FOLDER, max_examples=40, deadline=None)
@given(dims=dimensions(), conv=st.booleans())
def test_any_model_is_read_from_its_shapes(dims: ModelDimensions, conv: bool, tmp_path: Path) -> None:
    model = SfaVivit(dims).eval()
    state = dict(model.state_dict())
    tubelet_frames: int | None = dims.tubelet_frames
    if conv and not dims.resnet:  # a Conv3d tells the tubelet's length
        state |= conv_embedding(state, dims)
        tubelet_frames = None
    torch.save({"state_dict": prefixed("model.", state)}, tmp_path / "x")
    function: Any = dims.adapter and dims.adapter.activation + (
        "" if dims.adapter.residual else "-no-residual"
    )
    known = KnownDimensions(None, dims.spatial.heads, dims.temporal.heads, tubelet_frames, function)
    loaded = load_checkpoint(tmp_path / "x", known)
    assert loaded.dims == dims
    assert_same(loaded, model)


def conv_embedding(state: State, dims: ModelDimensions) -> State:
    weight = state.pop("spatial.patch_embed.weight")
    t, p = dims.tubelet_frames, dims.patch_size
    kernel = weight.view(dims.hidden_size, t, p, p, 3).permute(0, 4, 1, 2, 3).contiguous()
    return {
        "spatial.patch_embed.proj.weight": kernel,
        "spatial.patch_embed.proj.bias": state.pop("spatial.patch_embed.bias"),
    }


def test_a_conv3d_embedding_is_the_same_function(tmp_path: Path) -> None:
    model = small_model()
    state = dict(model.state_dict())
    conv = conv_embedding(state, model.dims)
    torch.save(state | conv, tmp_path / "x")
    frames = torch.randint(0, 256, (1, 2, 16, 16, 3), dtype=torch.uint8)
    pixels = frames.permute(0, 4, 1, 2, 3) / 127.5 - 1
    weight, bias = conv.values()
    expected = torch.nn.functional.conv3d(pixels, weight, bias, stride=(2, 8, 8)).flatten(2).mT[0]
    spatial = load_checkpoint(tmp_path / "x", KnownDimensions(heads=4)).spatial
    torch.testing.assert_close(spatial.patch_embed(spatial._patches(frames[0]))[0], expected)


def refused(path: Path, message: str, known: KnownDimensions | None = None) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, known)
    assert str(caught.value).isprintable()


def tiny(**changes: Any) -> SfaVivit:
    return SfaVivit(replace(named_dimensions("tiny", {"": 3}, frames=8), **changes)).eval()


def test_a_size_says_what_shapes_leave_open(tmp_path: Path) -> None:
    model = tiny()
    torch.save(model.state_dict(), tmp_path / "x")
    assert load_checkpoint(tmp_path / "x", KnownDimensions("tiny")).dims == model.dims
    other = load_checkpoint(tmp_path / "x", KnownDimensions("tiny", heads=2, temporal_heads=8))
    assert (other.dims.spatial.heads, other.dims.temporal.heads) == (2, 8)


@pytest.mark.parametrize("size", [*SIZES, *HYBRIDS])
def test_every_size_fits_its_own_shapes(size: str) -> None:
    with torch.device("meta"):
        model = SfaVivit(named_dimensions(size, {"verb": 3, "noun": 4}))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert read_dimensions(Path("x"), shapes, KnownDimensions(size), None) == model.dims
    with pytest.raises(CheckpointError, match=f"leave open .*; or --size {size}$"):
        read_dimensions(Path("x"), shapes, KnownDimensions(), None)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (
            KnownDimensions(),
            r"open the attention heads: --heads 1, 2, 4, 8 and the tubelet length: --tubelet-frames "
            r"2 \(8 px patches\), 8 \(4 px patches\); or --size tiny$",
        ),
        (KnownDimensions(heads=4), r"open the tubelet length: --tubelet-frames 2 \(8"),
        (KnownDimensions(tubelet_frames=2), r"open the attention heads: --heads 1, 2, 4, 8; or --size tiny"),
        (
            KnownDimensions("B"),
            "--size B has hidden size 768, the checkpoint 128; .*layers 12, the checkpoint 4",
        ),
        (KnownDimensions("R-tiny"), "--size R-tiny has resnet .*, the checkpoint none"),
        (KnownDimensions("XL"), "--size XL is unknown; choose one of tiny, B, L, H, g"),
        (KnownDimensions(heads=3, tubelet_frames=2), "hidden size over attention heads"),
        (
            KnownDimensions(heads=4, tubelet_frames=5),
            r"--tubelet-frames 5 does not fit .* 384 values: .*2 \(8",
        ),
        (KnownDimensions("tiny", tubelet_frames=8), "--size tiny has patch size 8, the checkpoint 4"),
    ],
)
def test_open_and_contradicted_dimensions(known: KnownDimensions, message: str, tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "x")
    refused(tmp_path / "x", message, known)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (KnownDimensions("L"), "--size L has hidden size 1024, the checkpoint 32"),
        (KnownDimensions(heads=8), "--heads 8, the checkpoint has 4"),
        (KnownDimensions(tubelet_frames=4), "--tubelet-frames 4, the checkpoint has 2"),
        (KnownDimensions(temporal_heads=1), "--temporal-heads 1, the checkpoint has"),
        (KnownDimensions(adapter="relu"), "--adapter relu, the checkpoint has (gelu|none)"),
    ],
)
def test_stated_dimensions_are_checked_where_the_file_has_its_own(
    known: KnownDimensions, message: str, tmp_path: Path
) -> None:
    save_checkpoint(small_model(), tmp_path / "x")
    for path in (tmp_path / "x", DATA / "scenic_golden.msgpack"):
        if path.name == "x" or known.tubelet_frames or known.size or known.adapter:
            refused(path, message, known)
    assert load_checkpoint(tmp_path / "x", KNOWN).dims == small_model().dims


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial.encoder.pos": torch.zeros(1, 4, 32)}, "square grid of patches, found 3"),
        ({"spatial.encoder.pos": torch.zeros(1, 0, 32)}, "expected 3 axes, found"),
        ({"spatial.encoder.pos": None}, "spatial.encoder.pos: expected 3 axes, it is missing"),
        ({"spatial.patch_embed.weight": torch.zeros(32, 3, 2, 8, 4)}, "expected 2 axes, found"),
        ({"spatial.patch_embed.weight": torch.zeros(32, 385)}, "does not fit a patch embedding of 385"),
        (
            {"temporal.classifiers.logits_verb.weight": None},
            "unexpected temporal.classifiers.logits_verb.bias",
        ),
        ({"temporal.encoder.blocks.7.norm1.bias": torch.zeros(32)}, "misses"),
        ({"spatial.resnet.stages.0.blocks.0.x": torch.zeros(1)}, "unexpected spatial.resnet"),
        ({"extra": torch.zeros(1)}, "unexpected extra"),
    ],
)
def test_misshapen_weights(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = {k: v for k, v in (dict(small_model().state_dict()) | change).items() if v is not None}
    torch.save(state, tmp_path / "x")
    refused(tmp_path / "x", message, KNOWN)
