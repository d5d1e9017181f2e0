"""Checkpoints of Scenic's ViViT factorised encoder (``SpaceTimeViViT``, arXiv 2103.15691 model 2)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sfavivit.config import ModelDimensions, TransformerDimensions, validation_summary
from sfavivit.models.checkpoints.flax import FlaxArray, FlaxFormatError, read_flax
from sfavivit.models.checkpoints.shapes import KnownDimensions
from sfavivit.models.checkpoints.weights import (
    check_finite,
    check_shapes,
    checkpoint_error,
    meta_model,
    reason,
)
from sfavivit.models.vivit import Block, Encoder, SfaVivit

# Paths of the weights in a train state: of Scenic today, and of two generations of flax.optim. The inner path
# comes before the outer one.
PARAMETER_PATHS = (("params",), ("optimizer", "target", "params"), ("optimizer", "target"))
_ATTENTION = "MultiHeadDotProductAttention_0"


def load_scenic(path: Path, known: KnownDimensions, from_key: str | None) -> SfaVivit:
    """Load a Scenic or Flax train state, for ``load_checkpoint``.

    The dimensions are read from the shapes of the weights. The model has no adapter and one unnamed output.
    """
    if from_key is not None:
        raise checkpoint_error(path, f"--from-key {from_key} is for torch.save and safetensors files")
    try:
        arrays = flatten(path, parameters(path, read_flax(path)))
        dims = _dimensions(path, arrays)
        known.check(path, dims)
        model = meta_model(path, dims)
        expected = {name: tuple(view.shape) for name, view in scenic_views(model).items()}
        check_shapes(path, expected, {name: array.shape for name, array in arrays.items()})
        model.to_empty(device="cpu")
        with torch.no_grad():
            for name, view in scenic_views(model).items():
                values = torch.from_numpy(arrays[name].to_float32())
                check_finite(path, name, values)
                view.copy_(values)
    except (FlaxFormatError, OSError) as error:
        raise checkpoint_error(
            path, f"expected a Scenic train state in msgpack, found: {reason(error)}"
        ) from error
    return model


def parameters(path: Path, tree: Any) -> dict[str, Any]:
    """Return the weights in a train state. Raises ``CheckpointError`` if there are none."""
    for route in PARAMETER_PATHS:
        node = tree
        for key in route:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and node:
            return node
    found = ", ".join(list(tree)[:8]) if isinstance(tree, dict) else type(tree).__name__
    routes = ", ".join("/".join(route) for route in PARAMETER_PATHS)
    raise checkpoint_error(path, f"expected weights at one of {routes}; found {found}")


def flatten(path: Path, tree: dict[str, Any], prefix: str = "") -> dict[str, FlaxArray]:
    """Return the arrays of a tree under their paths, joined with slashes."""
    arrays: dict[str, FlaxArray] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            arrays |= flatten(path, value, f"{name}/")
        elif isinstance(value, FlaxArray):
            arrays[name] = value
        else:
            raise checkpoint_error(path, f"weight {name}: expected an array, found {type(value).__name__}")
    return arrays


def _refuse_variants(path: Path, arrays: dict[str, FlaxArray]) -> None:
    """Refuse Scenic's other ViViTs, which are other functions than this model."""
    parts = {name.split("/")[0] for name in arrays}
    kernel = arrays.get("embedding/kernel")
    images = kernel is not None and len(kernel.shape) == 4
    variants = {
        "is an image model (an initial one in training)": "Transformer" in parts and images,
        "is an unfactorised ViViT (one Transformer)": "Transformer" in parts,
        "is no ViViT (no SpatialTransformer)": "SpatialTransformer" not in parts,
        "averages over time (no TemporalTransformer)": "TemporalTransformer" not in parts,
        "pools its tokens (no cls_SpatialTransformer)": "cls_SpatialTransformer" not in parts,
        "pools its tubelets (no cls_TemporalTransformer)": "cls_TemporalTransformer" not in parts,
        "has a pre_logits layer (representation_size)": "pre_logits" in parts,
        "embeds single frames (a 2D embedding kernel)": images,
    }
    for variant, holds in variants.items():
        if holds:
            raise checkpoint_error(
                path, f"expected Scenic's factorised encoder with class tokens; this model {variant}"
            )


def _dimensions(path: Path, arrays: dict[str, FlaxArray]) -> ModelDimensions:
    _refuse_variants(path, arrays)

    def shape(name: str, axes: str) -> tuple[int, ...]:
        if name not in arrays:
            raise checkpoint_error(path, f"misses the weight {name} [{axes}]")
        if len(found := arrays[name].shape) != len(axes.split(", ")):
            raise checkpoint_error(path, f"weight {name}: expected shape [{axes}], found {list(found)}")
        return found

    def transformer(name: str) -> TransformerDimensions:
        layers = {key.split("/")[1] for key in arrays if key.startswith(f"{name}/encoderblock_")}
        block = f"{name}/encoderblock_0"
        return TransformerDimensions(
            layers=len(layers),
            heads=shape(f"{block}/{_ATTENTION}/query/kernel", "D, heads, D / heads")[1],
            mlp_dim=shape(f"{block}/MlpBlock_0/Dense_0/kernel", "D, mlp")[1],
        )

    tubelet_frames, patch_size, _, _, hidden_size = shape("embedding/kernel", "t, p, p, 3, D")
    patches = shape("SpatialTransformer/posembed_input/pos_embedding", "1, 1 + patches, D")[1] - 1
    side = math.isqrt(max(patches, 0))
    if side * side != patches:
        raise checkpoint_error(path, f"expected positions of a square grid of patches, found {patches}")
    tubelets = shape("TemporalTransformer/posembed_input/pos_embedding", "1, 1 + tubelets, D")[1] - 1
    try:
        return ModelDimensions(
            hidden_size=hidden_size,
            image_size=side * patch_size,
            patch_size=patch_size,
            tubelet_frames=tubelet_frames,
            spatial=transformer("SpatialTransformer"),
            temporal=transformer("TemporalTransformer"),
            max_tubelets=tubelets,
            outputs=(("", shape("output_projection/kernel", "D, classes")[1]),),
        )
    except ValidationError as error:
        raise checkpoint_error(path, f"its shapes make no model: {validation_summary(error)}") from error


def scenic_views(model: SfaVivit) -> dict[str, Tensor]:
    """Return views of a model's parameters under Scenic's names and in Scenic's shapes, for writing to them.

    The model has no adapter and one unnamed output.
    """
    dims, spatial, temporal = model.dims, model.spatial, model.temporal
    t, p = dims.tubelet_frames, dims.patch_size
    patch_kernel = spatial.patch_embed.weight.view(dims.hidden_size, t, p, p, 3)
    classifier = temporal.classifiers["logits"]
    assert isinstance(classifier, torch.nn.Linear)
    return {
        "embedding/kernel": patch_kernel.permute(1, 2, 3, 4, 0),
        "embedding/bias": spatial.patch_embed.bias,
        "cls_SpatialTransformer": spatial.encoder.cls,
        "cls_TemporalTransformer": temporal.encoder.cls,
        **encoder_views(spatial.encoder, "SpatialTransformer"),
        **encoder_views(temporal.encoder, "TemporalTransformer"),
        **_dense_views(classifier, "output_projection"),
    }


def encoder_views(encoder: Encoder, name: str) -> dict[str, Tensor]:
    """Return views of an encoder's parameters, but the class token, under Flax's names and in its shapes."""
    views = {
        f"{name}/posembed_input/pos_embedding": encoder.pos,
        **_norm_views(encoder.norm, f"{name}/encoder_norm"),
    }
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, Block)
        views |= _block_views(block, f"{name}/encoderblock_{index}")
    return views


def _block_views(block: Block, name: str) -> dict[str, Tensor]:
    heads = block.attn.heads
    d = block.attn.proj.out_features
    views = {
        **_norm_views(block.norm1, f"{name}/LayerNorm_0"),
        **_norm_views(block.norm2, f"{name}/LayerNorm_1"),
        **_dense_views(block.mlp.fc1, f"{name}/MlpBlock_0/Dense_0"),
        **_dense_views(block.mlp.fc2, f"{name}/MlpBlock_0/Dense_1"),
        f"{name}/{_ATTENTION}/out/kernel": block.attn.proj.weight.view(d, heads, -1).permute(1, 2, 0),
        f"{name}/{_ATTENTION}/out/bias": block.attn.proj.bias,
    }
    kernels = block.attn.qkv.weight.view(3, heads, -1, d).permute(0, 3, 1, 2)
    biases = block.attn.qkv.bias.view(3, heads, -1)
    for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
        views[f"{name}/{_ATTENTION}/{part}/kernel"] = kernel
        views[f"{name}/{_ATTENTION}/{part}/bias"] = bias
    return views


def _dense_views(linear: torch.nn.Linear, name: str) -> dict[str, Tensor]:
    return {f"{name}/kernel": linear.weight.T, f"{name}/bias": linear.bias}


def _norm_views(norm: torch.nn.LayerNorm, name: str) -> dict[str, Tensor]:
    return {f"{name}/scale": norm.weight, f"{name}/bias": norm.bias}
