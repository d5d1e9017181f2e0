"""Model configuration: dimensions, frame sampling and crops.

The dimensions, which are all of an architecture that is not a weight, travel inside checkpoints (safetensors
metadata) and manifests, so that no file name or side file describes a model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass

from sfavivit.errors import UsageError

STRICT = ConfigDict(extra="forbid", strict=True)
Count = Annotated[int, Field(gt=0, le=1 << 20)]

NORM_GROUPS = 32
"""Groups of channels in each group norm of a BiT ResNet (arXiv 1912.11370, section 3.3)."""

# "" is a single unnamed output; EPIC-Kitchens models have "verb" and "noun".
OUTPUT_NAME = re.compile(r"([a-z][a-z0-9_]{0,31})?")


def exact_div(numerator: int, denominator: int, what: str) -> int:
    """Divide without remainder. Raises ``ValueError``, which names ``what``, if there is one."""
    if numerator % denominator:
        raise ValueError(f"{what}: {numerator} is not a multiple of {denominator}")
    return numerator // denominator


@dataclass(frozen=True, config=STRICT)
class TransformerDimensions:
    """Dimensions of a pre-LN transformer encoder."""

    layers: Count
    heads: Count
    mlp_dim: Count


@dataclass(frozen=True, config=STRICT)
class ResNetDimensions:
    """Dimensions of a hybrid's ResNet: BiT's (arXiv 1912.11370), as in timm's ``vit_*_r50_*``.

    ``blocks``: bottleneck blocks of each stage. ``width``: channels of the stem; stage i has ``4 * width *
    2**i``. The stem divides the resolution by 4, each stage after the first by 2.
    """

    blocks: Annotated[tuple[Annotated[int, Field(gt=0, le=256)], ...], Field(min_length=1, max_length=6)]
    width: Count = 64

    @model_validator(mode="after")
    def _check(self) -> Self:
        exact_div(self.width, NORM_GROUPS, "ResNet width over groups of a norm")
        return self

    @property
    def stride(self) -> int:
        """Image pixels per position of the feature map, along a side."""
        return 1 << (len(self.blocks) + 1)

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.width * self.stride


@dataclass(frozen=True, config=STRICT)
class AdapterDimensions:
    """Dimensions of the adapter: two fully connected layers D -> width -> D on each tubelet's feature.

    The paper (arXiv 2306.04822, section 3) gives neither width, activation nor residual. With a residual and
    a second layer that starts at zero, stage II starts from the function that stage I learned.
    """

    width: Count
    activation: Literal["gelu", "relu"] = "gelu"
    residual: bool = True


@dataclass(frozen=True, config=STRICT)
class ModelDimensions:
    """Dimensions of an SFA-ViViT: spatial transformer per tubelet, adapter, temporal transformer.

    ``outputs``: (name, classes) of each linear classifier. ``max_tubelets``: number of learned temporal
    positions (128 frames are 64 tubelets of 2). ``resnet`` makes the model a hybrid: a patch is then one
    position of its feature maps, and ``patch_size`` is its stride.
    """

    hidden_size: Count
    image_size: Count
    patch_size: Count
    tubelet_frames: Count
    spatial: TransformerDimensions
    temporal: TransformerDimensions
    max_tubelets: Count
    outputs: tuple[tuple[str, Count], ...]
    adapter: AdapterDimensions | None = None
    resnet: ResNetDimensions | None = None

    @model_serializer(mode="wrap")
    def _without_absent_resnet(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plain ViTs are written as before there were hybrids, so that older code can read them.
        fields: dict[str, Any] = write(self)
        return fields if self.resnet else {name: fields[name] for name in fields if name != "resnet"}

    @model_validator(mode="after")
    def _check(self) -> Self:
        exact_div(self.image_size, self.patch_size, "image size over patch size")
        if self.resnet and self.patch_size != self.resnet.stride:
            stride = self.resnet.stride
            raise ValueError(
                f"patch size of a hybrid must be its ResNet's stride {stride}, got {self.patch_size}"
            )
        for part in (self.spatial, self.temporal):
            exact_div(self.hidden_size, part.heads, "hidden size over attention heads")
        names = [name for name, _ in self.outputs]
        if not names or len(set(names)) != len(names) or ("" in names and len(names) > 1):
            raise ValueError(f"outputs must be one unnamed or several distinct names, got {names}")
        if bad := [name for name in names if not OUTPUT_NAME.fullmatch(name)]:
            raise ValueError(f"output names must be lower-case identifiers, got {bad}")
        return self

    @property
    def patches(self) -> int:
        """Patches per tubelet: its spatial tokens without the CLS token."""
        return exact_div(self.image_size, self.patch_size, "image size over patch size") ** 2

    @property
    def patch_values(self) -> int:
        """Inputs of the patch embedding per patch: t * p * p * 3 pixel values, or t * C in a hybrid."""
        return self.tubelet_frames * (self.resnet.channels if self.resnet else self.patch_size**2 * 3)

    @property
    def max_frames(self) -> int:
        """Frames of the longest clip."""
        return self.max_tubelets * self.tubelet_frames

    def with_frames(self, frames: int) -> ModelDimensions:
        """Return these dimensions with temporal positions for ``frames`` frames."""
        tubelets = exact_div(frames, self.tubelet_frames, "frames over tubelet length")
        return replace(self, max_tubelets=tubelets)

    def to_json(self) -> str:
        """Write the dimensions as JSON."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelDimensions:
        """Read dimensions. Raises ``pydantic.ValidationError`` if the text does not describe a model."""
        return _ADAPTER.validate_json(text)


_ADAPTER: TypeAdapter[ModelDimensions] = TypeAdapter(ModelDimensions)

# (layers, heads, hidden, mlp, patch): ViT sizes of Dosovitskiy et al. 2021, table 1, and ViT-g of
# Zhai et al. 2022, table 2. "tiny" is this project's, for tests and the demo.
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (4, 4, 128, 512, 8),
    "B": (12, 12, 768, 3072, 16),
    "L": (24, 16, 1024, 4096, 16),
    "H": (32, 16, 1280, 5120, 14),
    "g": (40, 16, 1408, 6144, 14),
}

# Size of the transformer, and the ResNet in front of it: R50+ViT-B/16 and R50+ViT-L/32, which timm names
# vit_base_r50_s16 and vit_large_r50_s32. "R-tiny" is this project's.
HYBRIDS: dict[str, tuple[str, ResNetDimensions]] = {
    "R-tiny": ("tiny", ResNetDimensions((1, 1), width=32)),
    "R50-B": ("B", ResNetDimensions((3, 4, 9))),
    "R50-L": ("L", ResNetDimensions((3, 4, 6, 3))),
}


def named_dimensions(
    size: str,
    outputs: dict[str, int],
    *,
    frames: int = 128,
    temporal_layers: int = 4,
    adapter: bool = True,
    **overrides: Any,
) -> ModelDimensions:
    """Return the dimensions of a size of ``SIZES`` or ``HYBRIDS``; ``overrides`` replace single fields.

    Raises:
        UsageError: an unknown size, or dimensions that do not fit together.
    """
    transformer, resnet = HYBRIDS.get(size, (size, None))
    if transformer not in SIZES:
        raise UsageError(f"unknown model size {size!r}; choose one of {', '.join((*SIZES, *HYBRIDS))}")
    layers, heads, hidden, mlp, patch = SIZES[transformer]
    tubelet_frames = overrides.pop("tubelet_frames", 2)
    fields: dict[str, Any] = {
        "hidden_size": hidden,
        "image_size": 64 if transformer == "tiny" else 224,
        "patch_size": resnet.stride if resnet else patch,
        "tubelet_frames": tubelet_frames,
        "spatial": TransformerDimensions(layers, heads, mlp),
        "temporal": TransformerDimensions(temporal_layers, heads, mlp),
        "max_tubelets": math.ceil(frames / tubelet_frames),
        "outputs": tuple(outputs.items()),
        "adapter": AdapterDimensions(width=hidden) if adapter else None,
        "resnet": resnet,
    }
    try:
        return ModelDimensions(**(fields | overrides))
    except ValidationError as error:
        raise UsageError(f"model size {size}: {validation_summary(error)}") from error


PixelCount = Annotated[int, Field(gt=0, le=4096)]


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """Sampling of frames: ``fps`` per second, the shortest side scaled, a square cropped.

    It travels in the manifest, so that a model gets frames like those it was trained on.
    """

    fps: Annotated[float, Field(ge=1e-3, le=240, allow_inf_nan=False)]
    shortest_side: PixelCount
    crop_size: PixelCount

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crop_size > self.shortest_side:
            raise ValueError(
                f"crop size {self.crop_size} is more than the shortest side {self.shortest_side}"
            )
        return self


@plain_dataclass(frozen=True)
class Crop:
    """Position of the square that is cut out of the scaled picture; the centre by default.

    ``along`` the picture's longer side and ``across`` it, from 0 (left or top) to 1; ``flip`` mirrors it.
    """

    along: float = 0.5
    across: float = 0.5
    flip: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.along <= 1 and 0 <= self.across <= 1):
            raise UsageError(f"a crop lies at 0 to 1 of each side, got {self.along:g} and {self.across:g}")


CENTER = (Crop(),)


def validation_summary(error: ValidationError) -> str:
    """Summarise a validation error in one line: field, fault and offending value."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']} (got {item['input']!r:.80})"
        for item in error.errors(include_url=False)[:3]
    )
