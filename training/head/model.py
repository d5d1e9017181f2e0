"""Temporal half of a new head, and the head that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sfavivit.config import AdapterDimensions, ModelDimensions
from sfavivit.errors import RepositoryError, UsageError
from sfavivit.models.vivit import TemporalTransformer
from sfavivit.repository.manifest import Repository, read_manifest
from training.head.config import HeadRecipe
from training.stages import copy_temporal

DEFAULT_HEAD = "default"


def choose_start(repository: Path, wanted: str | None) -> str:
    """Return the name of the head to start from: ``wanted``, the only one, or ``default``.

    Raises:
        HeadNotFoundError: no such head.
        UsageError: there are several heads and none is called ``default``.
    """
    manifest = read_manifest(repository)
    heads = list(manifest.heads)
    if wanted is None and len(heads) > 1 and DEFAULT_HEAD not in heads:
        raise UsageError(f"{repository} has the heads {', '.join(heads)}; say which with --from-head")
    chosen = wanted or (DEFAULT_HEAD if DEFAULT_HEAD in heads else heads[0])
    manifest.head(chosen)
    return chosen


def head_of(repository: Repository, name: str) -> TemporalTransformer:
    """Load the temporal half of a head that the repository serves.

    Raises:
        HeadNotFoundError: no such head.
        RepositoryError: its weights do not match its dimensions.
    """
    temporal = TemporalTransformer(repository.manifest.head(name).dimensions)
    file = repository.temporal_file(name, "model.safetensors")
    try:
        temporal.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RepositoryError(
            f"{file} does not hold this head's weights: {' '.join(str(error).split()):.200}; export it again"
        ) from None
    return temporal


def new_head(
    dims: ModelDimensions, outputs: Mapping[str, int], recipe: HeadRecipe, start: TemporalTransformer | None
) -> TemporalTransformer:
    """Build a head of ``outputs`` {name: classes} with an adapter: from ``start``, or at random.

    ``dims``: dimensions where the recipe gives none.

    Raises:
        UsageError: frames that are no multiple of the tubelet length, or an adapter width other than that of
            ``start``.
    """
    width = recipe.adapter_width or (dims.adapter.width if dims.adapter else dims.hidden_size)
    adapter = replace(dims.adapter, width=width) if dims.adapter else AdapterDimensions(width=width)
    try:
        dims = dims.with_frames(recipe.frames or dims.max_frames)
    except ValueError as error:
        raise UsageError(f"frames = {recipe.frames}: {error}") from None
    if start is not None and start.dims.adapter not in (None, adapter):
        raise UsageError(
            f"adapter_width = {width} is not that of the head to start from, {start.dims.adapter.width}; "
            "leave it out, or start --from-scratch"
        )
    torch.manual_seed(recipe.seed)
    head = TemporalTransformer(replace(dims, adapter=adapter, outputs=tuple(outputs.items())))
    if start is not None:
        copy_temporal(start, head)
        for classifier in head.classifiers.values():
            assert isinstance(classifier, nn.Linear)
            classifier.reset_parameters()  # its classes are others, even where they are as many
    return head
