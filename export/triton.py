"""Triton model configurations, and the Python-backend shim.

The texts are protobuf text format; tests parse them with Triton's own ``model_config.proto``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sfavivit.dimensions import ModelDimensions
from sfavivit.repository import (
    FEATURES,
    FRAMES,
    SPATIAL_MODEL,
    Backend,
    ensemble_model,
    labels_file,
    logits_tensor,
    temporal_model,
)

SHIM = Path(__file__).with_name("triton_shim.py")

# Requests of one fixed chunk size, batched across streams; the delay is what a chunk waits for company.
MAX_BATCH = 16
QUEUE_DELAY_MICROSECONDS = 1000

# The Python backend of the pip-installed Triton has no GPU; the others place themselves where one is.
INSTANCES: dict[Backend, str] = {
    "python": "instance_group [ { kind: KIND_CPU count: 1 } ]\n",
    "onnxruntime": "",
}


def spatial_config(dims: ModelDimensions, backend: Backend) -> str:
    """``config.pbtxt`` of the spatial model."""
    return _model(SPATIAL_MODEL, backend, [_frames(dims)], [_features(dims)])


def temporal_config(head: str, dims: ModelDimensions, backend: Backend) -> str:
    """``config.pbtxt`` of a head's temporal model; labels make Triton's classification extension work."""
    outputs = [
        _tensor(logits_tensor(name), "FP32", [classes], f' label_filename: "{labels_file(name)}"')
        for name, classes in dims.outputs
    ]
    return _model(temporal_model(head), backend, [_features(dims)], outputs)


def ensemble_config(head: str, dims: ModelDimensions) -> str:
    """``config.pbtxt`` of a head's ensemble FRAMES -> FEATURES -> LOGITS."""
    names = [logits_tensor(name) for name, _ in dims.outputs]
    outputs = [_tensor(logits_tensor(name), "FP32", [classes]) for name, classes in dims.outputs]
    steps = [
        _step(SPATIAL_MODEL, [FRAMES], [FEATURES]),
        _step(temporal_model(head), [FEATURES], names),
    ]
    return (
        f'name: "{ensemble_model(head)}"\n'
        'platform: "ensemble"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"{_tensors('input', [_frames(dims)])}{_tensors('output', outputs)}"
        f"ensemble_scheduling {{\n  step {_list(steps)}}}\n"
    )


def write_shim(version_directory: Path) -> None:
    """Put the Python backend's ``model.py`` beside the model it runs."""
    shutil.copyfile(SHIM, version_directory / "model.py")


def _model(name: str, backend: Backend, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    return (
        f'name: "{name}"\n'
        f'backend: "{backend}"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"{_tensors('input', inputs)}{_tensors('output', outputs)}"
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}\n"
        f"{INSTANCES[backend]}"
    )


def _frames(dims: ModelDimensions) -> str:
    return _tensor(FRAMES, "UINT8", [-1, dims.image_size, dims.image_size, 3])


def _features(dims: ModelDimensions) -> str:
    return _tensor(FEATURES, "FP32", [-1, dims.hidden_size])


def _tensor(name: str, data_type: str, dims: Sequence[int], extra: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{data_type} dims: [ {", ".join(map(str, dims))} ]{extra} }}'


def _tensors(side: str, tensors: Sequence[str]) -> str:
    return f"{side} {_list(tensors)}"


def _list(items: Sequence[str]) -> str:
    return "[\n  " + ",\n  ".join(items) + "\n]\n"


def _step(model: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    maps = [f'input_map {{ key: "{name}" value: "{name}" }}' for name in inputs]
    maps += [f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'
