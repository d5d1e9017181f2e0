"""Model repositories of published sizes with random weights: what a benchmark of speed needs."""

from __future__ import annotations

from pathlib import Path

import torch

from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from sfavivit.config import named_dimensions
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Precision, Repository

CLASSES = 400  # as Kinetics has


def random_model(size: str, *, frames: int = 128, seed: int = 0, spatial_seed: int = 0) -> SfaVivit:
    """``size`` tiny, B, L, H or g, with an adapter and 400 classes; the same seeds, the same weights."""
    torch.manual_seed(seed)
    model = SfaVivit(named_dimensions(size, {"": CLASSES}, frames=frames)).eval()
    torch.manual_seed(spatial_seed)
    spatial = SfaVivit(model.dims).spatial.state_dict()
    model.spatial.load_state_dict(spatial)
    return model


def random_repository(
    folder: Path, size: str, precision: Precision, *, frames: int = 128, heads: int = 1
) -> Path:
    """The repository in ``folder``, made unless it is there already; its heads are ``first``, ``second`` ...

    Raises:
        SfaVivitError: what is there is no usable repository, or the export is refused.
    """
    if folder.exists():
        Repository.load(folder)
        return folder
    for seed, head in enumerate(("first", "second", "third", "fourth")[:heads]):
        model = random_model(size, frames=frames, seed=seed)
        options = ExportOptions(head=head, precision=precision)
        export_model(model, label_outputs(model, {}), folder, options)
    return folder
