"""Recipes: everything about a training run but where its videos lie and what it runs on, as checked TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sfavivit.config import (
    ModelDimensions,
    Sampling,
    TransformerDimensions,
    named_dimensions,
    validation_summary,
)
from sfavivit.errors import UsageError

RECIPES = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(gt=0, le=1 << 20)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# TOML has arrays, and strict pydantic takes none of them for a tuple.
Range = Annotated[tuple[Positive, Positive], Field(strict=False)]


class Section(BaseModel):
    """A table of a recipe: unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


SectionType = TypeVar("SectionType", bound=Section)


class ModelConfig(Section):
    """A published size (``SIZES`` and ``HYBRIDS`` of ``sfavivit.config``) and, for trials, smaller parts.

    ``outputs``: {name: classes}; a single output is named ``""``. ``adapter_width`` None: the hidden size.
    """

    size: str
    outputs: dict[str, Count]
    temporal_layers: Count = 4
    tubelet_frames: Count = 2
    adapter_width: Count | None = None
    hidden_size: Count | None = None
    patch_size: Count | None = None
    spatial_layers: Count | None = None

    def dimensions(self, image_size: int, frames: int) -> ModelDimensions:
        """Without an adapter, with positions for ``frames`` frames; raises ``UsageError``."""
        given = {"hidden_size": self.hidden_size, "patch_size": self.patch_size}
        dims = named_dimensions(
            self.size,
            self.outputs,
            frames=frames,
            temporal_layers=self.temporal_layers,
            tubelet_frames=self.tubelet_frames,
            adapter=False,
            image_size=image_size,
            **{name: value for name, value in given.items() if value},
        )
        spatial = dims.spatial
        layers = self.spatial_layers or spatial.layers
        return replace(dims, spatial=TransformerDimensions(layers, spatial.heads, spatial.mlp_dim))


class OptimiserConfig(Section):
    """Linear warm-up, cosine decay to zero; ``clip_norm`` is the largest norm of all gradients together.

    ``learning_rate`` is the peak. The paper does not mention ``clip_norm``; 1 is what the configurations of
    ViViT in Scenic have (``max_grad_norm``).
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive
    epochs: Count
    batch_size: Count
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive | None = 1.0


class RandAugmentConfig(Section):
    """``layers`` random operations of strength ``magnitude`` (10 is full strength, more goes beyond)."""

    layers: Count
    magnitude: Annotated[float, Field(ge=0, le=30)]


class AugmentationConfig(Section):
    """What happens to a clip, all frames alike; numbers are probabilities unless they say otherwise.

    ``colour_drop``: to grey; 0.1 goes with colour jitter in the configurations of ViViT in Scenic.
    """

    random_crop: Probability = 1.0
    flip: Probability = 0.5
    scale_jitter: Probability = 1.0
    scale_range: Range = (0.9, 1.33)
    colour_jitter: Probability = 0.0
    colour_drop: Probability = 0.0
    randaugment: RandAugmentConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> AugmentationConfig:
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range must be [least, most], got {list(self.scale_range)}")
        return self


class RegularisationConfig(Section):
    """``stochastic_depth``: rate of the last block. ``mixup``: alpha of the Beta distribution; 0 is none."""

    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0


class StageConfig(Section):
    """One training of the model; where its two halves start, and which of them learn.

    ``image``: a ViT image checkpoint, or random when the run is given none. ``previous``: the stage before
    (temporal positions are interpolated). ``epochs`` and ``learning_rate`` None: those of the recipe.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    frames: Count
    spatial: Literal["image", "previous", "random"] = "previous"
    temporal: Literal["previous", "random"] = "previous"
    frozen: bool = False
    adapter: bool = False
    epochs: Count | None = None
    learning_rate: Positive | None = None

    @property
    def needs_previous(self) -> bool:
        return "previous" in (self.spatial, self.temporal)


class Recipe(Section):
    """A whole run. Stages follow one another; the first may start from a checkpoint that is given."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    model: ModelConfig
    sampling: Sampling
    optimiser: OptimiserConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    regularisation: RegularisationConfig = RegularisationConfig()
    stages: Annotated[tuple[StageConfig, ...], Field(strict=False, min_length=1)]

    @field_validator("sampling", mode="before")
    @classmethod
    def _sampling(cls, value: object) -> object:
        return Sampling(**value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have names of their own, got {', '.join(names)}")
        least = self.sampling.shortest_side
        if self.augmentation.scale_jitter:
            least = int(least * self.augmentation.scale_range[0])
        if least < self.sampling.crop_size:
            raise ValueError(
                f"scale_range {self.augmentation.scale_range[0]} of shortest_side "
                f"{self.sampling.shortest_side} is less than crop_size {self.sampling.crop_size}"
            )
        if self.regularisation.mixup and self.optimiser.batch_size % 2:
            raise ValueError(f"mixup mixes pairs: batch_size must be even, got {self.optimiser.batch_size}")
        return self

    def optimiser_of(self, stage: StageConfig) -> OptimiserConfig:
        """The recipe's optimiser with what the stage says otherwise."""
        own = {"epochs": stage.epochs, "learning_rate": stage.learning_rate}
        return self.optimiser.model_copy(update={name: value for name, value in own.items() if value})


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by the name of one in ``training/recipes`` or by its path, with ``key.key=value`` settings.

    Raises:
        UsageError: no such recipe, not TOML, or a key or value that a recipe cannot have.
    """
    path = Path(name)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{name}.toml"
    try:
        content = read_toml(path)
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise UsageError(f"no recipe {name!r}; give the path of a .toml file, or one of {known}") from None
    return checked(Recipe, content, settings, f"recipe {name!r}")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        FileNotFoundError: there is none.
        UsageError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"recipe {str(path)!r} cannot be read: {reason}") from None


def checked(
    kind: type[SectionType], content: dict[str, Any], settings: Sequence[str], where: str
) -> SectionType:
    """``content`` with ``settings`` as a section. Raises ``UsageError`` for what it cannot have."""
    for setting in settings:
        _apply(content, setting)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}: {validation_summary(error)}") from None
    except TypeError as error:  # from Sampling(**unknown)
        raise UsageError(f"{where}: sampling: {error}") from None


def _apply(content: dict[str, Any], setting: str) -> None:
    """Set ``optimiser.learning_rate=0.01`` or ``stages.1.frames=64`` in place."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {setting!r}: write key.key=value, for example optimiser.learning_rate=0.01")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text  # a bare word is a string
    place: Any = content
    *parents, last = key.split(".")
    try:
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        place[int(last) if isinstance(place, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise UsageError(f"--set {setting!r}: there is no such place in the recipe") from None
