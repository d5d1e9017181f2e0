"""Triton model configurations, and the Python-backend shim.

The texts are protobuf text format; tests parse them with Triton's own ``model_config.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sfavivit.config import ModelDimensions
from sfavivit.repository.manifest import (
    FEATURES,
    FRAMES,
    SPATIAL_MODEL,
    Backend,
    Catalog,
    Labels,
    Manifest,
    ensemble_model,
    labels_file,
    logits_tensor,
    plan_file,
    temporal_model,
)
from sfavivit.repository.triton_parameters import PARAMETER, head_parameter, spatial_parameter

SHIM = Path(__file__).with_name("triton_shim.py")

# Requests of one fixed chunk size, batched across streams; the delay is what a chunk waits for company. With
# 16 streams of the demo model on 2 cores batches held 8 to 9 chunks; no delay was no faster, 5 ms and batches
# of at most 4 were slower, so no sizes are preferred.
MAX_BATCH = 16
QUEUE_DELAY_MICROSECONDS = 1000

TritonBackend = Backend | Literal["tensorrt"]
"""A model with a plan runs in the tensorrt backend, the others in the repository's."""

# The Python backend of the pip-installed Triton has no GPU; ONNX Runtime places itself where one is. Without
# profiles named, the TensorRT backend would use the first alone; of several it takes the nearest that fits.
INSTANCES: dict[TritonBackend, str] = {
    "python": "instance_group [ { kind: KIND_CPU count: 1 } ]\n",
    "onnxruntime": "",
    "tensorrt": 'instance_group [ { kind: KIND_GPU count: 1 profile: [ "0", "1" ] } ]\n',
}


def configs(catalog: Catalog) -> dict[str, str]:
    """Model name -> ``config.pbtxt`` of every model of a repository; they follow from its catalog alone."""
    manifest = catalog.manifest
    texts = {SPATIAL_MODEL: _spatial_config(manifest)}
    for head, entry in manifest.heads.items():
        backend = _backend(manifest, temporal_model(head), entry.version)
        texts[temporal_model(head)] = _temporal_config(manifest, head, catalog.labels[head], backend)
        texts[ensemble_model(head)] = _ensemble_config(head, entry.dimensions)
    return texts


def _backend(manifest: Manifest, model: str, version: int) -> TritonBackend:
    return "tensorrt" if plan_file(model, version) in manifest.plans else manifest.backend


def _spatial_config(manifest: Manifest) -> str:
    tensors = ([_frames(manifest.dimensions)], [_features(manifest.dimensions)])
    version = manifest.spatial.version
    backend = _backend(manifest, SPATIAL_MODEL, version)
    return _model(SPATIAL_MODEL, backend, version, *tensors, spatial_parameter(manifest))


def _temporal_config(manifest: Manifest, head: str, labels: Labels, backend: TritonBackend) -> str:
    """Labels make Triton's classification extension work; they lie with the version they belong to."""
    entry, outputs = manifest.head(head), []
    for name, classes in entry.outputs.items():
        file = f' label_filename: "{entry.version}/{labels_file(name)}"'
        outputs.append(_tensor(logits_tensor(name), "FP32", [classes], file))
    inputs, parameter = [_features(entry.dimensions)], head_parameter(manifest, head, labels)
    return _model(temporal_model(head), backend, entry.version, inputs, outputs, parameter)


def _ensemble_config(head: str, dims: ModelDimensions) -> str:
    """FRAMES -> FEATURES -> LOGITS, each model in the version that its own config serves."""
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


def _model(
    name: str,
    backend: TritonBackend,
    version: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    parameter: str,
) -> str:
    return (
        f'name: "{name}"\n'
        f'backend: "{backend}"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"version_policy {{ specific {{ versions: [ {version} ] }} }}\n"
        f"{_tensors('input', inputs)}{_tensors('output', outputs)}"
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}\n"
        f"{INSTANCES[backend]}"
        f'parameters {{ key: "{PARAMETER}" value {{ string_value: {_quoted(parameter)} }} }}\n'
    )


def _quoted(text: str) -> str:
    """One line of JSON as a protobuf string; single quotes leave most of it readable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
