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
from sfavivit.models.checkpoints.shapes import (
    CONV_EMBEDDING,
    EMBEDDING,
    KnownDimensions,
    conv_embedding,
    linear_embedding,
    read_dimensions,
)
from sfavivit.models.checkpoints.states import find_state
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
# Names that tell this model's weights from others'.
_ANCHORS = (EMBEDDING, CONV_EMBEDDING, "spatial.encoder.cls", "temporal.encoder.cls")


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


def load_safetensors(path: Path, known: KnownDimensions, from_key: str | None) -> SfaVivit:
    """Load a native checkpoint, or weights without dimensions, for ``load_checkpoint``."""
    tensors, metadata = read_safetensors(path)
    return _model(path, metadata.get(DIMENSIONS_KEY), find_state(path, tensors, _ANCHORS, from_key), known)


def load_torch(path: Path, known: KnownDimensions, from_key: str | None) -> SfaVivit:
    """Load what ``torch.save`` wrote, ours or a training framework's, for ``load_checkpoint``.

    Our own files are ``{"dimensions": JSON text, "state": state_dict}``.
    """
    content = read_torch(path)
    state = find_state(path, content, _ANCHORS, from_key)
    dimensions = content.get("dimensions")
    if dimensions is not None and not isinstance(dimensions, str):
        raise checkpoint_error(path, f"expected 'dimensions' as JSON text, found {type(dimensions).__name__}")
    return _model(path, dimensions, state, known)


def _model(
    path: Path, dimensions: str | None, values: Mapping[str, object], known: KnownDimensions
) -> SfaVivit:
    if not any(name in values for name in _ANCHORS):
        raise checkpoint_error(
            path,
            f"expected this model's weights, such as {_ANCHORS[0]}, alone or in a training framework's "
            f"checkpoint; found {', '.join(list(values)[:3]) or 'nothing'}",
        )
    tensors = linear_embedding(check_tensors(path, values))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if dimensions is None:
        dims = read_dimensions(path, shapes, known, conv_embedding(values))
    else:
        try:
            dims = ModelDimensions.from_json(dimensions)
        except ValidationError as error:
            raise checkpoint_error(path, f"bad dimensions: {validation_summary(error)}") from error
        known.check(path, dims)
    if (layers := dims.spatial.layers + dims.temporal.layers) > len(tensors):
        raise checkpoint_error(path, f"expected weights for {layers} layers, found {len(tensors)} weights")
    model = meta_model(path, dims)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes(path, expected, shapes)
    model.load_state_dict({name: to_float32(path, name, tensors[name]) for name in expected}, assign=True)
    return model
