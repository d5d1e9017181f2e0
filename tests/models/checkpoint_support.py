"""Shared by the tests of checkpoints: a small model, files, and the form of a refusal."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from sfavivit.config import AdapterDimensions, named_dimensions
from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from tests.make_golden import flax_bytes

# Examples overwrite one file in one temporary folder, and the first one pays for torch's start.
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_model(*, adapter: bool | AdapterDimensions = True, **overrides: Any) -> SfaVivit:
    """Two outputs, an adapter, four spatial layers and one temporal; random weights, always the same."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "image_size": 16, "temporal_layers": 1} | overrides
    dims = named_dimensions("tiny", {"verb": 5, "noun": 3}, frames=8, adapter=bool(adapter), **shape)
    if isinstance(adapter, AdapterDimensions):
        dims = replace(dims, adapter=adapter)
    return SfaVivit(dims).eval()


def scenic_file(path: Path, params: dict[str, Any]) -> Path:
    path.write_bytes(flax_bytes({"params": params}))
    return path


def refusal(path: Path, pattern: str = "") -> str:
    """Return the message of a refusal, which is one printable line, without the file's name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    name, _, message = str(caught.value).partition(f"{path}: ")
    assert name == "checkpoint " and message and message.isprintable()
    assert re.search(pattern, message), message
    return message


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
