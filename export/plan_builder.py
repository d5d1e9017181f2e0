"""ONNX -> TensorRT plan: strongly typed, so the graph alone decides which numbers have how many bits.

Not run on a GPU yet: written after the documentation of TensorRT 10 and 11, names and signatures checked
against the bindings of TensorRT 10.5 and 11.4.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from export.graphs import GraphAndWeights
from export.plan_profiles import Profile
from sfavivit.engines.tensorrt import Log
from sfavivit.errors import ExportError

TENSORRT_VERSION = str(trt.__version__)


def build_plan(
    built: GraphAndWeights, profiles: Sequence[Profile], scratch: Path, timing_cache: Path | None = None
) -> bytes:
    """A plan of the graph for this GPU. ``scratch`` is a directory for the ONNX file and its weights.

    ``timing_cache``: measurements of kernels, read if the file exists and then extended by this build's.

    Raises:
        ExportError: TensorRT refuses the graph, a profile or the timing cache, or cannot build.
    """
    log = Log()
    builder = trt.Builder(log)
    # The only kind in TensorRT 11; 10 wants it said.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    file = write_onnx(built, scratch)
    # From the file, not from its bytes: the weights are external data, found beside it.
    if not parser.parse_from_file(str(file)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {TENSORRT_VERSION} refuses the graph: {' '.join(reasons.split())}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32, as in the other engines
    name = network.get_input(0).name
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(name, *profile)
        if config.add_optimization_profile(shapes) < 0:
            raise ExportError(f"TensorRT refuses the shapes {profile} of {name}: {log.last_error}")
    if timing_cache:
        _use_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {TENSORRT_VERSION} cannot build a plan: {log.last_error}")
    if timing_cache:
        _keep_timing_cache(config, timing_cache)
    return bytes(plan)


def write_onnx(built: GraphAndWeights, folder: Path) -> Path:
    """``model.onnx`` and its weights; not as safetensors, which has no bfloat16 for NumPy."""
    offsets = {}
    with (folder / "weights.bin").open("wb") as stream:
        for name, values in built.stored.items():
            offsets[name] = stream.tell()
            stream.write(np.ascontiguousarray(values).tobytes())
    file = folder / "model.onnx"
    file.write_bytes(built.bind("weights.bin", offsets).SerializeToString())
    return file


def _use_timing_cache(config: Any, file: Path) -> None:
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise ExportError(f"timing cache {file} cannot be read: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"timing cache {file} is of another GPU or TensorRT version: name another file")


def _keep_timing_cache(config: Any, file: Path) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        partial.replace(file)
    except OSError as error:
        raise ExportError(f"timing cache {file} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
