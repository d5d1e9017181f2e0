"""Training recipes: checked TOML that holds all of a run except its lists of videos and its machine."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sfavivit.config import (
    ModelDimensions,
    Sampling,
    TransformerDimensions,
    named_dimensions,
    validation_summary,
)
from sfavivit.errors import UsageError

RECIPES = Path(__file__).parent / "recipes"


def _check_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"scale_range must be [min, max], got {list(value)}")
    return value


Count = Annotated[int, Field(gt=0, le=1 << 20)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# TOML has arrays, and strict pydantic takes none of them for a tuple.
ScaleRange = Annotated[tuple[Positive, Positive], Field(strict=False), AfterValidator(_check_range)]

Strategy = Literal["auto", "ddp", "fsdp"]
Precision = Literal["32-true", "bf16-mixed"]  # not fp16: its loss scale would be one more state to keep


class Section(BaseModel):
    """Base of a recipe's tables: unknown keys and values of other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


SectionType = TypeVar("SectionType", bound=Section)


class ModelConfig(Section):
    """Model size: one of ``SIZES`` and ``HYBRIDS`` in ``sfavivit.config``, with changes for trials.

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
        """Return dimensions without an adapter; raises ``UsageError`` for sizes that do not fit."""
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
    """Optimiser with linear warm-up to the peak ``learning_rate`` and cosine decay to zero.

    ``clip_norm``: largest norm of all gradients together. The paper does not mention it; 1 is what the
    configurations of ViViT in Scenic have (``max_grad_norm``).
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive
    epochs: Count
    batch_size: Count
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.5
    momentum: Rate = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive | None = 1.0


class RandAugmentConfig(Section):
    """RandAugment: ``layers`` random operations of ``magnitude`` (10 is full strength, more goes beyond)."""

    layers: Count
    magnitude: Annotated[float, Field(ge=0, le=30)]


class AugmentationConfig(Section):
    """Augmentation of a clip, the same for all its frames; plain numbers are probabilities.

    ``colour_drop``: conversion to grey; 0.1 accompanies colour jitter in the ViViT configurations of Scenic.
    """

    random_crop: Probability = 1.0
    flip: Probability = 0.5
    scale_jitter: Probability = 1.0
    scale_range: ScaleRange = (0.9, 1.33)
    colour_jitter: Probability = 0.0
    colour_drop: Probability = 0.0
    randaugment: RandAugmentConfig | None = None


class RegularisationConfig(Section):
    """Drop rate of the last block, label smoothing, and alpha of mixup's Beta distribution (0: off)."""

    stochastic_depth: Rate = 0.0
    label_smoothing: Rate = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0


class StageConfig(Section):
    """One stage: where each half of the model starts, and whether the spatial half learns.

    ``image``: a ViT image checkpoint. ``previous``: the stage before, its temporal positions interpolated.
    ``epochs`` and ``learning_rate`` None: those of the recipe.
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
    """A whole run: its stages follow one another, and the first may start from a given checkpoint."""

    name: str
    seed: Seed = 0
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
        sampling, scale = self.sampling, self.augmentation.scale_range[0]
        min_side = int(sampling.shortest_side * (scale if self.augmentation.scale_jitter else 1))
        if min_side < sampling.crop_size:
            raise ValueError(
                f"scale_range {scale} of shortest_side {sampling.shortest_side} is less than crop_size "
                f"{sampling.crop_size}"
            )
        if self.regularisation.mixup and self.optimiser.batch_size % 2:
            raise ValueError(f"mixup mixes pairs: batch_size must be even, got {self.optimiser.batch_size}")
        return self

    def optimiser_of(self, stage: StageConfig) -> OptimiserConfig:
        """Return the recipe's optimiser with the stage's own epochs and learning rate."""
        own = {"epochs": stage.epochs, "learning_rate": stage.learning_rate}
        return self.optimiser.model_copy(update={name: value for name, value in own.items() if value})


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Load a recipe of ``training/recipes`` by name, or any by path, and apply ``key.key=value`` settings.

    Raises:
        UsageError: no such recipe, not TOML, or an invalid key or value.
    """
    path = Path(name)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{name}.toml"
    known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
    content = read_toml(path, f"no recipe {name!r}; give the path of a .toml file, or one of {known}")
    return validate_section(Recipe, content, settings, f"recipe {name!r}")


def read_toml(path: Path, missing: str) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises:
        UsageError: the file cannot be read; ``missing`` is the message where there is none.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(missing) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"recipe {str(path)!r} cannot be read: {reason}") from None


def validate_section(
    kind: type[SectionType], content: dict[str, Any], settings: Sequence[str], where: str
) -> SectionType:
    """Apply ``settings`` to ``content`` and validate it as a section. Raises ``UsageError``."""
    for setting in settings:
        _apply_setting(content, setting)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}: {validation_summary(error)}") from None
    except TypeError as error:  # from Sampling(**unknown)
        raise UsageError(f"{where}: sampling: {error}") from None


def _apply_setting(content: dict[str, Any], setting: str) -> None:
    """Apply ``optimiser.learning_rate=0.01`` or ``stages.1.frames=64`` in place."""
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
