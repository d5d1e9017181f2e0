"""What a new head is trained like, as a checked recipe of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from sfavivit.errors import UsageError
from training.config import Count, OptimiserConfig, Probability, Range, Section, checked, read_toml
from training.selection import Selector


class VariantConfig(Section):
    """Augmented features of a video: a random place of the square, mirrored or not, at a random scale.

    ``flip`` is for classes that stay what they are in a mirror; ``scale_range`` is that of the paper's
    recipes, and goes no lower than the square.
    """

    flip: Probability = 0.5
    scale_range: Range = (0.9, 1.33)

    @model_validator(mode="after")
    def _check(self) -> VariantConfig:
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range must be [least, most], got {list(self.scale_range)}")
        return self


class HeadRegularisation(Section):
    """``mixup``: alpha of the Beta distribution, for features and classes; 0 is none."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mixup: Annotated[float, Field(ge=0)] = 1.0


class HeadRecipe(Section):
    """How a head is trained. ``frames`` of its window, ``adapter_width``: None for those of the head that it
    starts from, or the hidden size. ``prefix``: how often a window shows only a beginning, for answers while
    a stream is arriving; it costs accuracy where the order of things decides.

    ``select``: learn from so many tubelets of each window, chosen by ``selector``; None for all.

    An epoch is one window of each video. A batch is never larger than the list.
    """

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    frames: Count | None = None
    adapter_width: Count | None = None
    optimiser: OptimiserConfig = OptimiserConfig(
        name="adamw", learning_rate=1e-3, epochs=100, batch_size=16, warmup_epochs=5.0, weight_decay=0.05
    )
    prefix: Probability = 0.0
    select: Count | None = None
    selector: Selector = "novelty"
    variants: VariantConfig = VariantConfig()
    regularisation: HeadRegularisation = HeadRegularisation()


def load_head_recipe(path: Path | None, settings: Sequence[str]) -> HeadRecipe:
    """The recipe of a TOML file, or the defaults, with ``key.key=value`` settings. Raises ``UsageError``."""
    defaults = HeadRecipe().model_dump(mode="json", exclude_none=True)
    try:
        content = read_toml(path) if path else {}
    except FileNotFoundError:
        raise UsageError(f"no recipe {str(path)!r}; give a .toml file, or none for the defaults") from None
    for name, section in content.items():
        known = defaults.get(name)
        defaults[name] = known | section if isinstance(known, dict) and isinstance(section, dict) else section
    return checked(HeadRecipe, defaults, settings, f"recipe {str(path)!r}" if path else "head recipe")
