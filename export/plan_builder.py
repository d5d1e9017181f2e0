"""Build TensorRT plans from ONNX files, strongly typed: the graph alone decides every number's precision.

Not run on a GPU yet: written after the documentation of TensorRT 10 and 11; a test compares the names with
NVIDIA's bindings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorrt as trt

from export.plan_profiles import Profile
from sfavivit.engines.tensorrt import Log
from sfavivit.errors import ExportError
from sfavivit.utils.atomic import atomic_write

VERSION = str(trt.__version__)


def build_plan(file: Path, profiles: Sequence[Profile], timing_cache: Path | None = None) -> bytes:
    """Build a plan of an ONNX file with one input, for this GPU.

    ``timing_cache``: measurements of kernels, read if the file exists and then extended by this build's.

    Raises:
        ExportError: TensorRT refuses the graph, a profile or the timing cache, or cannot build.
    """
    log = Log()
    builder = trt.Builder(log)
    # The only kind in TensorRT 11; 10 needs the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    # From the file, not from its bytes: the weights are external data, found beside it.
    if not parser.parse_from_file(str(file)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {VERSION} refuses the graph: {' '.join(reasons.split())}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32, as in the other engines
    name = network.get_input(0).name
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(name, *profile)
        if config.add_optimization_profile(shapes) < 0:
            raise ExportError(f"TensorRT refuses the shapes {profile} of {name}: {log.last_error}")
    if timing_cache:
        use_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {VERSION} cannot build a plan: {log.last_error}")
    if timing_cache:
        keep_timing_cache(config, timing_cache)
    return bytes(plan)


def use_timing_cache(config: Any, file: Path) -> None:
    """Give a builder configuration the timing cache in ``file``, or an empty one if there is no file.

    Raises:
        ExportError: the file cannot be read, or is of another GPU or TensorRT version.
    """
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise ExportError(f"timing cache {file} cannot be read: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"timing cache {file} is of another GPU or TensorRT version: name another file")


def keep_timing_cache(config: Any, file: Path) -> None:
    """Replace ``file`` by the timing cache of a builder configuration.

    Raises:
        ExportError: the file cannot be written.
    """
    try:
        atomic_write(file, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        raise ExportError(f"timing cache {file} cannot be written: {error.strerror}") from error
