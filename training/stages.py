"""Initial model of a stage.

    stage I     image ViT ──► spatial            temporal from scratch         few frames, all weights learn
    stage II    stage I ───► spatial, frozen     stage I ─► temporal           many frames
                                └── adapter ──────┘ positions interpolated

Other combinations are the paper's ablations, and its longer chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sfavivit.config import AdapterDimensions, ModelDimensions
from sfavivit.errors import UsageError
from sfavivit.models.checkpoints import initialise_spatial
from sfavivit.models.vivit import SfaVivit, TemporalTransformer, interpolate_positions
from training.config import Recipe, StageConfig


def check_start(
    stages: Sequence[StageConfig], previous: SfaVivit | None, image_checkpoint: Path | None
) -> None:
    """Raise ``UsageError`` when consecutive stages need a checkpoint that is not given."""
    first = stages[0]
    if first.needs_previous and previous is None:
        raise UsageError(
            f"stage {first.name!r} starts from the one before: give its checkpoint with --initial"
        )
    for stage in stages:
        if stage.spatial == "image" and image_checkpoint is None:
            raise UsageError(
                f"stage {stage.name!r} starts from an image ViT: give --image-checkpoint, or set its "
                'spatial = "random"'
            )


def stage_model(
    recipe: Recipe, stage: StageConfig, previous: SfaVivit | None, image_checkpoint: Path | None
) -> SfaVivit:
    """Build the model that a stage starts from; random weights depend on the recipe's seed alone.

    Raises:
        UsageError: the stage needs a checkpoint that is not given, or one of other dimensions.
        CheckpointError: the image checkpoint cannot be read or does not fit.
    """
    check_start([stage], previous, image_checkpoint)
    dims = recipe.model.dimensions(recipe.sampling.crop_size, stage.frames)
    if stage.adapter:
        width = recipe.model.adapter_width or dims.hidden_size
        dims = replace(dims, adapter=AdapterDimensions(width=width))
    torch.manual_seed(int(np.random.SeedSequence((recipe.seed, 2)).generate_state(1)[0]))
    model = SfaVivit(dims)
    if stage.spatial == "image":
        assert image_checkpoint is not None
        initialise_spatial(model, image_checkpoint)
    if previous is not None and stage.needs_previous:
        _check_fits(previous.dims, dims, stage)
        if stage.spatial == "previous":
            model.spatial.load_state_dict(previous.spatial.state_dict())
        if stage.temporal == "previous":
            copy_temporal(previous.temporal, model.temporal)
    return model.freeze_spatial() if stage.frozen else model


@torch.no_grad()
def copy_temporal(source: TemporalTransformer, target: TemporalTransformer) -> None:
    """Copy weights, with positions interpolated to the frames of ``target``.

    An adapter that ``source`` lacks, and classifiers of other outputs, keep the weights of ``target``.
    """
    state = source.state_dict()
    grids = (source.dims.max_tubelets, 1), (target.dims.max_tubelets, 1)
    state["encoder.pos"] = interpolate_positions(state["encoder.pos"], *grids)
    if source.dims.outputs != target.dims.outputs:
        state = {name: value for name, value in state.items() if not name.startswith("classifiers.")}
    loaded = target.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys, loaded
    assert all(name.startswith(("adapter.", "classifiers.")) for name in loaded.missing_keys), loaded


def _check_fits(found: ModelDimensions, wanted: ModelDimensions, stage: StageConfig) -> None:
    """Check that nothing but frames, outputs and a new adapter differs."""
    adapter = wanted.adapter if found.adapter is None else found.adapter
    adjusted = replace(found, max_tubelets=wanted.max_tubelets, outputs=wanted.outputs, adapter=adapter)
    if adjusted != wanted:
        raise UsageError(
            f"stage {stage.name!r} cannot start from a model of other dimensions: the recipe says "
            f"{wanted.to_json()}, the checkpoint {found.to_json()}"
        )
