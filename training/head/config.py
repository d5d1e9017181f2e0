"""Recipe of a new head, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from training.config import (
    Count,
    OptimiserConfig,
    Probability,
    Rate,
    ScaleRange,
    Section,
    Seed,
    read_toml,
    validate_section,
)

Selector = Literal["novelty", "even"]


class VariantConfig(Section):
    """Augmented features of a video: a random crop at a random scale, mirrored with probability ``flip``.

    Set ``flip`` to 0 if classes change in a mirror. ``scale_range`` is that of the paper's recipes; a frame
    is never scaled below the crop.
    """

    flip: Probability = 0.5
    scale_range: ScaleRange = (0.9, 1.33)


class HeadRegularisation(Section):
    """Label smoothing, and alpha of the Beta distribution of mixup on features (0: off)."""

    label_smoothing: Rate = 0.1
    mixup: Annotated[float, Field(ge=0)] = 1.0


class HeadRecipe(Section):
    """Training of a head. An epoch is one window per video; a batch is never larger than the list.

    ``frames`` of a window and ``adapter_width`` None: those of the head it starts from, or the hidden size.
    ``prefix``: probability that a window is only the beginning of one, for partial results of streams; it
    costs accuracy where the order of events decides. ``select``: tubelets to train on per window, chosen by
    ``selector``; None for all.
    """

    seed: Seed = 0
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
    """Load the defaults, values of a TOML file, then ``key.key=value`` settings. Raises ``UsageError``."""
    content = HeadRecipe().model_dump(mode="json", exclude_none=True)
    missing = f"no recipe {str(path)!r}; give a .toml file, or none for the defaults"
    for name, section in (read_toml(path, missing) if path else {}).items():
        known = content.get(name)
        content[name] = known | section if isinstance(known, dict) and isinstance(section, dict) else section
    return validate_section(HeadRecipe, content, settings, f"recipe {str(path)!r}" if path else "head recipe")
