"""The native checkpoint: a safetensors file with the model's dimensions in its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from sfavivit.config import ModelDimensions, validation_summary
from sfavivit.models.checkpoints.containers import read_safetensors, read_torch
from sfavivit.models.checkpoints.weights import (
    check_finite,
    check_shapes,
    check_tensors,
    checkpoint_error,
    meta_model,
    reason,
    to_float32,
)
from sfavivit.models.vivit import SfaVivit
from sfavivit.utils.atomic import atomic_path

# The only metadata key: safetensors writes several in no fixed order.
DIMENSIONS_KEY = "sfavivit.config"


def save_checkpoint(model: SfaVivit, path: str | os.PathLike[str]) -> None:
    """Write a native checkpoint, atomically. The same model gives the same bytes.

    Raises:
        CheckpointError: the file cannot be written, or a weight is NaN or infinite.
    """
    file = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        check_finite(file, name, tensor)
    try:
        with atomic_path(file) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # from the umask; save_file would leave 0600
            save_file(tensors, temporary, {DIMENSIONS_KEY: model.dims.to_json()})
            temporary.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise checkpoint_error(file, f"cannot be written: {reason(error)}") from error


def load_safetensors(path: Path) -> SfaVivit:
    """Load a native checkpoint, for ``load_checkpoint``."""
    tensors, metadata = read_safetensors(path)
    if DIMENSIONS_KEY not in metadata:
        raise checkpoint_error(
            path,
            f"expected the model's dimensions under the metadata key {DIMENSIONS_KEY!r}, "
            f"found the keys {sorted(metadata)}; save_checkpoint writes them",
        )
    return _model(path, metadata[DIMENSIONS_KEY], tensors)


def load_torch(path: Path) -> SfaVivit:
    """Load ``torch.save({"dimensions": JSON text, "state": state_dict})``, for ``load_checkpoint``."""
    content = read_torch(path)
    keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or set(content) != {"dimensions", "state"}:
        raise checkpoint_error(path, f"expected the keys 'dimensions' and 'state', found {keys}")
    dimensions, state = content["dimensions"], content["state"]
    if not isinstance(dimensions, str) or not isinstance(state, dict):
        raise checkpoint_error(
            path,
            "expected 'dimensions' as JSON text and 'state' as a dict, "
            f"found {type(dimensions).__name__} and {type(state).__name__}",
        )
    return _model(path, dimensions, {str(name): value for name, value in state.items()})


def _model(path: Path, dimensions: str, values: Mapping[str, object]) -> SfaVivit:
    try:
        dims = ModelDimensions.from_json(dimensions)
    except ValidationError as error:
        raise checkpoint_error(path, f"bad dimensions: {validation_summary(error)}") from error
    tensors = check_tensors(path, values)
    if (layers := dims.spatial.layers + dims.temporal.layers) > len(tensors):
        raise checkpoint_error(path, f"expected weights for {layers} layers, found {len(tensors)} weights")
    model = meta_model(path, dims)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes(path, expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    model.load_state_dict({name: to_float32(path, name, tensors[name]) for name in expected}, assign=True)
    return model
