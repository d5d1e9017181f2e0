"""Dimensions of a model, read from the shapes of its weights and from what a user states.

Shapes tell all but three things: attention heads; the tubelet length, where a linear patch embedding has only
the product t * p * p * 3; and the adapter's function, this project's default unless stated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from torch import Tensor

from sfavivit.config import (
    HYBRIDS,
    SIZES,
    AdapterDimensions,
    ModelDimensions,
    ResNetDimensions,
    TransformerDimensions,
    validation_summary,
)
from sfavivit.models.checkpoints.weights import Shape, checkpoint_error

EMBEDDING = "spatial.patch_embed.weight"
CONV_EMBEDDING = "spatial.patch_embed.proj.weight"  # a Conv3d of the tubelet's size and stride
_RESNET_BLOCK = re.compile(r"spatial\.resnet\.stages\.(\d+)\.blocks\.(\d+)\..*")
_VALUES_SHOWN = 8

AdapterFunction = Literal["gelu", "relu", "gelu-no-residual", "relu-no-residual"]


@dataclass(frozen=True)
class KnownDimensions:
    """Dimensions that a user states: of a size of ``SIZES`` or ``HYBRIDS``, or one by one.

    A single one replaces the size's; ``temporal_heads`` are ``heads`` if not stated.
    """

    size: str | None = None
    heads: int | None = None
    temporal_heads: int | None = None
    tubelet_frames: int | None = None
    adapter: AdapterFunction | None = None

    def check(self, path: Path, dims: ModelDimensions) -> None:
        """Raise ``CheckpointError`` if a model's dimensions are not those stated."""
        spatial = dims.spatial
        found = _Found(
            dims.hidden_size, spatial.layers, spatial.mlp_dim, dims.resnet, dims.patch_size, spatial.heads
        )
        differences = _differences(self.size, found, path) if self.size else []
        differences += [
            f"{option} {stated}, the checkpoint has {value}"
            for option, stated, value in (
                ("--heads", self.heads, spatial.heads),
                ("--temporal-heads", self.temporal_heads, dims.temporal.heads),
                ("--tubelet-frames", self.tubelet_frames, dims.tubelet_frames),
                ("--adapter", self.adapter, _adapter_function(dims.adapter)),
            )
            if stated not in (None, value)
        ]
        if differences:
            raise checkpoint_error(path, "; ".join(differences))


def _adapter_function(adapter: AdapterDimensions | None) -> str:
    if adapter is None:
        return "none"
    return adapter.activation if adapter.residual else f"{adapter.activation}-no-residual"


def _adapter(width: int, function: AdapterFunction | None) -> AdapterDimensions:
    if function is None:
        return AdapterDimensions(width)
    activation: Any = function.removesuffix("-no-residual")
    return AdapterDimensions(width, activation, residual=function == activation)


class _Found(NamedTuple):
    """Dimensions of the spatial half that a checkpoint has; ``None`` where it leaves them open."""

    hidden_size: int
    layers: int
    mlp_dim: int
    resnet: ResNetDimensions | None
    patch_size: int | None
    heads: int | None = None


def _named(path: Path, size: str) -> _Found:
    transformer, resnet = HYBRIDS.get(size, (size, None))
    if transformer not in SIZES:
        sizes = ", ".join((*SIZES, *HYBRIDS))
        raise checkpoint_error(path, f"--size {size} is unknown; choose one of {sizes}")
    layers, heads, hidden_size, mlp_dim, patch_size = SIZES[transformer]
    return _Found(hidden_size, layers, mlp_dim, resnet, resnet.stride if resnet else patch_size, heads)


def _differences(size: str, found: _Found, path: Path) -> list[str]:
    """Return the contradictions between a size and a checkpoint, with both values."""
    named = _named(path, size)
    return [
        f"--size {size} has {field.replace('_', ' ')} {stated or 'none'}, the checkpoint {value or 'none'}"
        for field, stated, value in zip(_Found._fields, named, found, strict=True)
        if stated != value and (value is not None or field == "resnet")
    ]


def _check_size(path: Path, size: str | None, found: _Found) -> None:
    if size and (differences := _differences(size, found, path)):
        raise checkpoint_error(path, "; ".join(differences))


def conv_embedding(values: Mapping[str, object]) -> tuple[int, int] | None:
    """Return the tubelet length and patch size of a Conv3d patch embedding [D, 3, t, p, p], if it is one."""
    for name in (EMBEDDING, CONV_EMBEDDING):
        match values.get(name):
            case Tensor(shape=(_, 3, t, p, q)) if p == q:
                return int(t), int(p)
    return None


def linear_embedding(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with a Conv3d patch embedding as the same linear map of (t, p, p, 3) values."""
    out = {
        name.replace("spatial.patch_embed.proj.", "spatial.patch_embed."): tensor
        for name, tensor in tensors.items()
    }
    if conv_embedding(tensors):
        out[EMBEDDING] = out[EMBEDDING].permute(0, 2, 3, 4, 1).flatten(1)
    return out


def read_dimensions(
    path: Path, shapes: Mapping[str, Shape], known: KnownDimensions, conv: tuple[int, int] | None
) -> ModelDimensions:
    """Read a model's dimensions from the shapes of its weights; ``conv``: tubelet length and patch size.

    Raises:
        CheckpointError: a weight is missing or misshapen, ``known`` contradicts the shapes, or a dimension
            stays open; the message names its possible values.
    """

    def shape(name: str, axes: int) -> Shape:
        if len(found := shapes.get(name, ())) != axes or 0 in found:
            state = f"found {list(found)}" if name in shapes else "it is missing"
            raise checkpoint_error(path, f"weight {name}: expected {axes} axes, {state}")
        return found

    def layers(half: str) -> int:
        blocks = {m[1] for name in shapes if (m := re.match(rf"{half}\.encoder\.blocks\.(\d+)\.", name))}
        return len(blocks)

    hidden_size, values = shape(EMBEDDING, 2)
    resnet = _resnet(shapes)
    found = _Found(
        hidden_size,
        layers("spatial"),
        shape("spatial.encoder.blocks.0.mlp.fc1.weight", 2)[0],
        resnet,
        resnet.stride if resnet else conv[1] if conv else None,
    )
    _check_size(path, known.size, found)
    heads = known.heads or (_named(path, known.size).heads if known.size else None)
    tubelet_frames, patch_size = conv or _tubelet(path, values, resnet, known)
    _check_size(path, known.size, found._replace(patch_size=patch_size or None))
    if not (heads and tubelet_frames):
        raise checkpoint_error(path, _question(path, found, values, heads, tubelet_frames))
    side = math.isqrt(patches := shape("spatial.encoder.pos", 3)[1] - 1)
    if side * side != patches:
        raise checkpoint_error(path, f"expected positions of a square grid of patches, found {patches}")
    try:
        dims = ModelDimensions(
            hidden_size=hidden_size,
            image_size=side * patch_size,
            patch_size=patch_size,
            tubelet_frames=tubelet_frames,
            spatial=TransformerDimensions(found.layers, heads, found.mlp_dim),
            temporal=TransformerDimensions(
                layers("temporal"),
                known.temporal_heads or heads,
                shape("temporal.encoder.blocks.0.mlp.fc1.weight", 2)[0],
            ),
            max_tubelets=shape("temporal.encoder.pos", 3)[1] - 1,
            outputs=_outputs(shapes),
            adapter=(
                _adapter(shape("temporal.adapter.fc1.weight", 2)[0], known.adapter)
                if "temporal.adapter.fc1.weight" in shapes
                else None
            ),
            resnet=resnet,
        )
    except ValidationError as error:
        raise checkpoint_error(path, f"its shapes make no model: {validation_summary(error)}") from error
    KnownDimensions(tubelet_frames=known.tubelet_frames, adapter=known.adapter).check(path, dims)
    return dims


def _resnet(shapes: Mapping[str, Shape]) -> ResNetDimensions | None:
    blocks: dict[int, set[str]] = {}
    for name in shapes:
        if match := _RESNET_BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    stem = shapes.get("spatial.resnet.stem.conv.weight", ())
    if not blocks or not stem:
        return None
    try:
        return ResNetDimensions(tuple(len(blocks[stage]) for stage in sorted(blocks)), width=stem[0])
    except ValidationError:
        return None  # the weights of the ResNet are then unexpected ones


def _tubelets(values: int) -> list[tuple[int, int]]:
    """Return every (tubelet length, patch size) whose pixels are ``values`` = t * p * p * 3."""
    pixels, rest = divmod(values, 3)
    if rest:
        return []
    sides = range(math.isqrt(pixels), 0, -1)
    return [(pixels // side**2, side) for side in sides if pixels % side**2 == 0]


def _tubelet(
    path: Path, values: int, resnet: ResNetDimensions | None, known: KnownDimensions
) -> tuple[int, int]:
    """Return the tubelet length and patch size of a linear embedding of ``values``; 0, 0 if they are open."""
    if resnet:
        return values // resnet.channels, resnet.stride
    possible = _tubelets(values)
    if known.tubelet_frames:
        fitting = [pair for pair in possible if pair[0] == known.tubelet_frames]
        option = f"--tubelet-frames {known.tubelet_frames}"
    elif known.size:
        patch_size = _named(path, known.size).patch_size
        fitting = [pair for pair in possible if pair[1] == patch_size]
        option = f"--size {known.size} has patch size {patch_size}, which"
    else:
        return 0, 0
    if not fitting:
        raise checkpoint_error(
            path, f"{option} does not fit a patch embedding of {values} values: {_some_tubelets(values)}"
        )
    return fitting[0]


def _some_tubelets(values: int) -> str:
    pairs = _tubelets(values)
    shown = [f"{t} ({p} px patches)" for t, p in pairs if p >= 4 or len(pairs) == 1][:_VALUES_SHOWN]
    return f"--tubelet-frames {', '.join(shown)}" if shown else "it is no t * p * p * 3"


def _question(path: Path, found: _Found, values: int, heads: int | None, tubelet_frames: int) -> str:
    """Return a message that asks for what the shapes leave open."""
    width = found.hidden_size
    divisors = [n for n in range(1, width + 1) if width % n == 0] if width <= 1 << 20 else []
    usual = [n for n in divisors if 16 <= width // n <= 256] or divisors
    questions = []
    if not heads:
        questions.append(f"attention heads: --heads {', '.join(map(str, usual[:12]))}")
    if not tubelet_frames:
        questions.append(f"tubelet length: {_some_tubelets(values)}")
    sizes = [
        size
        for size in (*SIZES, *HYBRIDS)
        if not _differences(size, found, path)
        and (found.patch_size or any(p == _named(path, size).patch_size for _, p in _tubelets(values)))
    ]
    fits = f"or --size {', '.join(sizes)}" if sizes else "no --size fits"
    return f"its shapes leave open the {' and the '.join(questions)}; {fits}"


def _outputs(shapes: Mapping[str, Shape]) -> tuple[tuple[str, Any], ...]:
    outputs = []
    for name, found in shapes.items():
        if (match := re.fullmatch(r"temporal\.classifiers\.logits(?:_(\w+))?\.weight", name)) and found:
            outputs.append((match[1] or "", found[0]))
    return tuple(outputs)
