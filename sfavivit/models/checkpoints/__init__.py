"""Checkpoints in and out.

    native .safetensors ──┐
    torch.save, our own ──┼─► load_checkpoint ─► SfaVivit ─► save_checkpoint ─► native .safetensors
    Scenic msgpack ───────┘                         ▲
    ViT image checkpoint, timm naming ─► initialise_spatial

What a file is, is found in its first bytes, never in its name. A file is hostile until checked: pickles run
no code, nothing is allocated before the file is shown to hold it, and every refusal is one
``CheckpointError`` line.
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
    """The model of a checkpoint file, fp32 on the CPU, in evaluation mode.

    Accepts the native form, ``torch.save({"dimensions": json, "state": state_dict})``, and Scenic's
    factorised-encoder ViViT, whose dimensions are read from the shapes of its weights.

    Raises:
        CheckpointError: the file is none of these, is damaged, or does not hold exactly the finite weights
            of the model that it describes.
    """
    file = Path(path)
    return _LOADERS[identify(file)](file).eval()
