"""Triton model configurations in protobuf text format (``model_config.proto``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

MAX_BATCH = 16
TUBELET_FRAMES, MAX_TUBELETS = (
    "tubelet_frames",
    "max_tubelets",
)  # parameters that the Python backend's shim reads
# With 16 streams of the demo model on 2 cores, batches held 8 to 9 chunks; it was no faster without delay,
# and slower with 5 ms.
QUEUE_DELAY_MICROSECONDS = 1000

TritonBackend = Backend | Literal["tensorrt"]
"""A model with a plan runs in the tensorrt backend, the others in the repository's."""

# The Python backend of the pip-installed Triton has no GPU; ONNX Runtime uses one where it is. TensorRT's
# backend takes the nearest profile that fits of those named here, or only the first if none is named.
INSTANCES: dict[TritonBackend, str] = {
    "python": "instance_group [ { kind: KIND_CPU count: 1 } ]\n",
    "onnxruntime": "",
    "tensorrt": 'instance_group [ { kind: KIND_GPU count: 1 profile: [ "0", "1" ] } ]\n',
}


def configs(catalog: Catalog) -> dict[str, str]:
    """Return the ``config.pbtxt`` of every model of a repository by the model's name."""
    manifest = catalog.manifest
    texts = {SPATIAL_MODEL: _spatial_config(manifest)}
    for head, entry in manifest.heads.items():
        texts[temporal_model(head)] = _temporal_config(manifest, head, catalog.labels[head])
        texts[ensemble_model(head)] = _ensemble_config(head, entry.dimensions)
    return texts


def _spatial_config(manifest: Manifest) -> str:
    dims = manifest.dimensions
    parameters = {PARAMETER: spatial_parameter(manifest), TUBELET_FRAMES: str(dims.tubelet_frames)}
    tensors = [_frames(dims)], [_features(dims)]
    return _model(manifest, SPATIAL_MODEL, manifest.spatial.version, *tensors, parameters)


def _temporal_config(manifest: Manifest, head: str, labels: Labels) -> str:
    """Label files, which Triton's classification extension needs, lie with the version they belong to."""
    entry, outputs = manifest.head(head), []
    for name, classes in entry.outputs.items():
        file = f' label_filename: "{entry.version}/{labels_file(name)}"'
        outputs.append(_tensor(logits_tensor(name), "FP32", [classes], file))
    parameters = {
        PARAMETER: head_parameter(manifest, head, labels),
        TUBELET_FRAMES: str(entry.dimensions.tubelet_frames),
        MAX_TUBELETS: str(entry.dimensions.max_tubelets),
    }
    inputs = [_features(entry.dimensions)]
    return _model(manifest, temporal_model(head), entry.version, inputs, outputs, parameters)


def _ensemble_config(head: str, dims: ModelDimensions) -> str:
    """The ensemble FRAMES -> FEATURES -> LOGITS, each model in the version that its own config serves."""
    names = [logits_tensor(name) for name, _ in dims.outputs]
    outputs = [_tensor(logits_tensor(name), "FP32", [classes]) for name, classes in dims.outputs]
    steps = [_step(SPATIAL_MODEL, [FRAMES], [FEATURES]), _step(temporal_model(head), [FEATURES], names)]
    return (
        f'name: "{ensemble_model(head)}"\n'
        'platform: "ensemble"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"input {_list([_frames(dims)])}output {_list(outputs)}"
        f"ensemble_scheduling {{\n  step {_list(steps)}}}\n"
    )


def _model(
    manifest: Manifest,
    name: str,
    version: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    parameters: Mapping[str, str],
) -> str:
    has_plan = plan_file(name, version) in manifest.plans
    backend: TritonBackend = "tensorrt" if has_plan else manifest.backend
    return (
        f'name: "{name}"\n'
        f'backend: "{backend}"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"version_policy {{ specific {{ versions: [ {version} ] }} }}\n"
        f"input {_list(inputs)}output {_list(outputs)}"
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}\n"
        f"{INSTANCES[backend]}"
    ) + "".join(
        f'parameters {{ key: "{key}" value {{ string_value: {_quoted(value)} }} }}\n'
        for key, value in parameters.items()
    )


def _quoted(text: str) -> str:
    """Quote one line of JSON as a protobuf string; single quotes leave most of it readable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _frames(dims: ModelDimensions) -> str:
    return _tensor(FRAMES, "UINT8", [-1, dims.image_size, dims.image_size, 3])


def _features(dims: ModelDimensions) -> str:
    return _tensor(FEATURES, "FP32", [-1, dims.hidden_size])


def _tensor(name: str, data_type: str, dims: Sequence[int], extra: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{data_type} dims: [ {", ".join(map(str, dims))} ]{extra} }}'


def _list(items: Sequence[str]) -> str:
    return "[\n  " + ",\n  ".join(items) + "\n]\n"


def _step(model: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    maps = [f'input_map {{ key: "{name}" value: "{name}" }}' for name in inputs]
    maps += [f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'
