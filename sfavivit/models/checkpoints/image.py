"""Initialising the spatial half from an image checkpoint of a ViT or hybrid."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfavivit.models.checkpoints.containers import Container, identify, read_safetensors, read_torch
from sfavivit.models.checkpoints.weights import check_shapes, check_tensors, checkpoint_error, to_float32
from sfavivit.models.vivit import SfaVivit, SpatialTransformer, interpolate_positions

# The image classifier, and layers that versions of timm put before it.
_IGNORED = ("head.", "fc_norm.", "pre_logits.")
_WRAPPERS = ("model", "state_dict")  # keys of the weights in the larger dict of training scripts


@torch.no_grad()
def initialise_spatial(model: SfaVivit, path: str | os.PathLike[str]) -> None:
    """Overwrite the spatial half of ``model`` with an image ViT's or hybrid's weights in timm naming.

    The 2D patch kernel (1x1 in a hybrid) becomes the central frame (index t // 2) of the tubelet kernel,
    whose other frames become zero, as in Scenic's ``central_frame_initializer`` (arXiv 2103.15691, equation
    9). Positions of another grid size are interpolated. The image classifier is ignored; all other weights
    must fit. Pixels are scaled to [-1, 1], as for timm's models with mean = std = 0.5 (those of arXiv
    2106.10270).

    Raises:
        CheckpointError: another kind of file, or other dimensions than the model's; the model is unchanged.
    """
    file = Path(path)
    tensors = check_tensors(file, _image_weights(file))
    spatial = model.spatial
    targets = _targets(spatial)
    expected = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    positions = tensors.get("pos_embed", torch.empty(0))
    side = _grid_side(file, positions)
    check_shapes(
        file,
        expected | {"pos_embed": (1, 1 + side * side, spatial.dims.hidden_size)},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )
    weights = {name: to_float32(file, name, tensors[name]) for name in targets}
    new_side = spatial.dims.image_size // spatial.dims.patch_size
    if side != new_side:
        weights["pos_embed"] = interpolate_positions(weights["pos_embed"], (side, side), (new_side, new_side))
    spatial.patch_embed.weight.zero_()
    for name, target in targets.items():
        target.copy_(weights[name])


def _image_weights(path: Path) -> dict[str, object]:
    match identify(path):
        case Container.SAFETENSORS:
            content: object = read_safetensors(path)[0]
        case Container.TORCH:
            content = read_torch(path)
        case Container.MSGPACK:
            raise checkpoint_error(path, "expected a ViT image checkpoint in timm naming, found msgpack")
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise checkpoint_error(path, f"expected named weights, found {type(content).__name__}")
    return {str(name): value for name, value in content.items() if not str(name).startswith(_IGNORED)}


def _targets(spatial: SpatialTransformer) -> dict[str, Tensor]:
    """Return views of the spatial half's parameters under timm's names and in timm's shapes."""
    dims, encoder, embed = spatial.dims, spatial.encoder, spatial.patch_embed
    kernel = 1 if spatial.resnet else dims.patch_size
    frames = embed.weight.view(dims.hidden_size, dims.tubelet_frames, kernel, kernel, -1)
    resnet = spatial.resnet.named_parameters() if spatial.resnet else ()
    return {
        "cls_token": encoder.cls,
        "pos_embed": encoder.pos,
        **{f"patch_embed.backbone.{name}": tensor for name, tensor in resnet},
        "patch_embed.proj.weight": frames[:, dims.tubelet_frames // 2].permute(0, 3, 1, 2),
        "patch_embed.proj.bias": embed.bias,
        **{f"blocks.{name}": tensor for name, tensor in encoder.blocks.named_parameters()},
        **{f"norm.{name}": tensor for name, tensor in encoder.norm.named_parameters()},
    }


def _grid_side(path: Path, positions: Tensor) -> int:
    """Return the patches along a side of the image, from its positions [1, 1 + side * side, D]."""
    patches = positions.shape[1] - 1 if positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    if not side or side * side != patches:
        raise checkpoint_error(
            path, f"weight pos_embed: expected shape [1, 1 + side * side, D], found {list(positions.shape)}"
        )
    return side
