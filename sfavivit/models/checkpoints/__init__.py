"""Reading and writing checkpoints.

    native .safetensors ────────────┐
    torch.save, ours or a trainer's ┼─► load_checkpoint ─► SfaVivit ─► save_checkpoint ─► native .safetensors
    Scenic msgpack ─────────────────┘                         ▲
    image model: timm naming, .npz, Scenic ─► initialise_spatial

A file's format is recognised by its content, not by its name. Files may be hostile: pickles run no code,
nothing is allocated before the file is shown to hold it, and every refusal is a ``CheckpointError`` of one
line.
"""

from __future__ import annotations

import os
from pathlib import Path

from sfavivit.models.checkpoints.image import initialise_spatial
from sfavivit.models.checkpoints.kinds import Container, identify
from sfavivit.models.checkpoints.native import load_safetensors, load_torch, save_checkpoint
from sfavivit.models.checkpoints.scenic import load_scenic
from sfavivit.models.checkpoints.shapes import AdapterFunction, KnownDimensions
from sfavivit.models.vivit import SfaVivit

__all__ = ["AdapterFunction", "KnownDimensions", "initialise_spatial", "load_checkpoint", "save_checkpoint"]

_LOADERS = {
    Container.SAFETENSORS: load_safetensors,
    Container.TORCH: load_torch,
    Container.MSGPACK: load_scenic,
}


def load_checkpoint(
    path: str | os.PathLike[str], known: KnownDimensions | None = None, from_key: str | None = None
) -> SfaVivit:
    """Load a model from a checkpoint file, fp32 on the CPU, in evaluation mode.

    Accepts the native format, ``torch.save({"dimensions": json, "state": state_dict})``, this model's weights
    as a training framework saved them (``from_key`` chooses between several sets), and Scenic's
    factorised-encoder ViViT. Dimensions that the file does not state are read from the shapes of its
    weights; ``known`` states what shapes leave open.

    Raises:
        CheckpointError: the file is none of these, is damaged, does not hold exactly the finite weights
            of the model that it describes, leaves a dimension open, or contradicts ``known``.
    """
    file = Path(path)
    container = identify(file, tuple(_LOADERS), "a video model")
    return _LOADERS[container](file, known or KnownDimensions(), from_key).eval()
