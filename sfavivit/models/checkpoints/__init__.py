"""Reading and writing checkpoints.

    native .safetensors ──┐
    torch.save, our own ──┼─► load_checkpoint ─► SfaVivit ─► save_checkpoint ─► native .safetensors
    Scenic msgpack ───────┘                         ▲
    ViT image checkpoint, timm naming ─► initialise_spatial

A file's format is recognised by its first bytes, not by its name. Files may be hostile: pickles run no code,
nothing is allocated before the file is shown to hold it, and every refusal is a ``CheckpointError`` of one
line.
"""

from __future__ import annotations

import os
from pathlib import Path

from sfavivit.models.checkpoints.containers import Container, identify
from sfavivit.models.checkpoints.image import initialise_spatial
from sfavivit.models.checkpoints.native import load_safetensors, load_torch, save_checkpoint
from sfavivit.models.checkpoints.scenic import load_scenic
from sfavivit.models.vivit import SfaVivit

__all__ = ["initialise_spatial", "load_checkpoint", "save_checkpoint"]

_LOADERS = {
    Container.SAFETENSORS: load_safetensors,
    Container.TORCH: load_torch,
    Container.MSGPACK: load_scenic,
}


def load_checkpoint(path: str | os.PathLike[str]) -> SfaVivit:
    """Load a model from a checkpoint file, fp32 on the CPU, in evaluation mode.

    Accepts the native format, ``torch.save({"dimensions": json, "state": state_dict})``, and Scenic's
    factorised-encoder ViViT, whose dimensions are read from the shapes of its weights.

    Raises:
        CheckpointError: the file is none of these, is damaged, or does not hold exactly the finite weights
            of the model that it describes.
    """
    file = Path(path)
    return _LOADERS[identify(file)](file).eval()
