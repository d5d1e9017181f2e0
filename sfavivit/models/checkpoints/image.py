"""Initialising the spatial half from an image checkpoint of a ViT or hybrid."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfavivit.models.checkpoints.containers import read_safetensors, read_torch
from sfavivit.models.checkpoints.jax_image import (
    POSITIONS,
    READ_ERRORS,
    StoredArray,
    read_msgpack_image,
    read_npz_image,
)
from sfavivit.models.checkpoints.kinds import Container, identify
from sfavivit.models.checkpoints.scenic import encoder_views
from sfavivit.models.checkpoints.states import find_state
from sfavivit.models.checkpoints.weights import (
    Shape,
    check_finite,
    check_shapes,
    check_tensors,
    checkpoint_error,
    reason,
    to_float32,
)
from sfavivit.models.vivit import SfaVivit, SpatialTransformer, interpolate_positions

# The image classifier, and layers that versions of timm put before it.
_IGNORED = ("head.", "fc_norm.", "pre_logits.")
_TIMM_ANCHORS = ("patch_embed.proj.weight", "cls_token", "pos_embed")
_MAX_GRID_SIDE = 256  # bounds the positions, whose number the model does not fix


@dataclass(frozen=True)
class _Source:
    """Weights of an image model: where they go, their shapes in the file, and a reader of each in fp32."""

    positions: str
    targets: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]
    read: Callable[[str], Tensor]


@torch.no_grad()
def initialise_spatial(model: SfaVivit, path: str | os.PathLike[str]) -> None:
    """Overwrite the spatial half of ``model`` with an image model's weights.

    Taken are a ViT or hybrid in timm naming (safetensors or ``torch.save``), and a ViT with a class token of
    vision_transformer or big_vision (``.npz``) or of Scenic (msgpack).

    The 2D patch kernel (1x1 in a hybrid) becomes the central frame (index t // 2) of the tubelet kernel,
    whose other frames become zero, as in Scenic's ``central_frame_initializer`` (arXiv 2103.15691, equation
    9). Positions of another grid size are interpolated; a class token that has no position gets zero. The
    image classifier is ignored; all other weights must fit. Pixels are scaled to [-1, 1], as for timm's
    models with mean = std = 0.5 (those of arXiv 2106.10270).

    Raises:
        CheckpointError: another kind of file, or other dimensions than the model's; the model is unchanged.
    """
    file, spatial = Path(path), model.spatial
    source = _open(file, spatial)
    expected = {name: tuple(tensor.shape) for name, tensor in source.targets.items()}
    side, with_class = _grid(file, source.positions, source.shapes.get(source.positions, (0,)))
    positions = (1, side * side + with_class, spatial.dims.hidden_size)
    check_shapes(file, expected | {source.positions: positions}, source.shapes)
    weights = {name: source.read(name) for name in source.targets}
    if not with_class:
        rows = weights[source.positions]
        weights[source.positions] = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
    new_side = spatial.dims.image_size // spatial.dims.patch_size
    if side != new_side:
        weights[source.positions] = interpolate_positions(
            weights[source.positions], (side, side), (new_side, new_side)
        )
    spatial.patch_embed.weight.zero_()
    for name, target in source.targets.items():
        target.copy_(weights[name])


def _open(path: Path, spatial: SpatialTransformer) -> _Source:
    match identify(path, tuple(Container), "an image model"):
        case Container.SAFETENSORS:
            return _timm_source(path, spatial, read_safetensors(path)[0])
        case Container.TORCH:
            return _timm_source(path, spatial, read_torch(path))
        case Container.NPZ:
            return _jax_source(path, spatial, read_npz_image(path))
        case Container.MSGPACK:
            return _jax_source(path, spatial, read_msgpack_image(path))


def _timm_source(path: Path, spatial: SpatialTransformer, content: object) -> _Source:
    state = find_state(path, content, _TIMM_ANCHORS, preferred=("model", "state_dict"))
    tensors = check_tensors(path, {k: v for k, v in state.items() if not k.startswith(_IGNORED)})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return _Source(
        "pos_embed", _timm_targets(spatial), shapes, lambda name: to_float32(path, name, tensors[name])
    )


def _jax_source(path: Path, spatial: SpatialTransformer, arrays: Mapping[str, StoredArray]) -> _Source:
    if spatial.resnet:
        raise checkpoint_error(path, "is a ViT without a ResNet, but the model is a hybrid")

    def read(name: str) -> Tensor:
        try:
            values = torch.from_numpy(arrays[name].to_float32())
        except READ_ERRORS as error:
            raise checkpoint_error(path, f"weight {name} cannot be read: {reason(error)}") from error
        check_finite(path, name, values)
        return values

    shapes = {name: array.shape for name, array in arrays.items()}
    return _Source(POSITIONS, _jax_targets(spatial), shapes, read)


def _central_frame(spatial: SpatialTransformer) -> Tensor:
    """Return a view [D, p, p, C] of the patch embedding's central frame."""
    dims, embed = spatial.dims, spatial.patch_embed
    kernel = 1 if spatial.resnet else dims.patch_size
    frames = embed.weight.view(dims.hidden_size, dims.tubelet_frames, kernel, kernel, -1)
    return frames[:, dims.tubelet_frames // 2]


def _timm_targets(spatial: SpatialTransformer) -> dict[str, Tensor]:
    """Return views of the spatial half's parameters under timm's names and in timm's shapes."""
    encoder = spatial.encoder
    resnet = spatial.resnet.named_parameters() if spatial.resnet else ()
    return {
        "cls_token": encoder.cls,
        "pos_embed": encoder.pos,
        **{f"patch_embed.backbone.{name}": tensor for name, tensor in resnet},
        "patch_embed.proj.weight": _central_frame(spatial).permute(0, 3, 1, 2),
        "patch_embed.proj.bias": spatial.patch_embed.bias,
        **{f"blocks.{name}": tensor for name, tensor in encoder.blocks.named_parameters()},
        **{f"norm.{name}": tensor for name, tensor in encoder.norm.named_parameters()},
    }


def _jax_targets(spatial: SpatialTransformer) -> dict[str, Tensor]:
    """Return views of the spatial half's parameters under Scenic's names and in Scenic's shapes."""
    return {
        "cls": spatial.encoder.cls,
        "embedding/kernel": _central_frame(spatial).permute(1, 2, 3, 0),
        "embedding/bias": spatial.patch_embed.bias,
        **encoder_views(spatial.encoder, "Transformer"),
    }


def _grid(path: Path, name: str, shape: Shape) -> tuple[int, bool]:
    """Return the patches along a side of the image, and whether the class token has a position."""
    rows = shape[1] if len(shape) == 3 else 0
    for with_class in (True, False) if name == "pos_embed" else (False, True):
        side = math.isqrt(max(rows - with_class, 0))
        if 0 < side <= _MAX_GRID_SIDE and side * side == rows - with_class:
            return side, with_class
        if name == "pos_embed":  # timm's class token always has one
            break
    raise checkpoint_error(
        path, f"weight {name}: expected shape [1, 1 + side * side, D], found {list(shape)}"
    )
