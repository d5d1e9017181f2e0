"""A model becomes a model repository, or a head of one, if its engines prove equal to PyTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save_file

from export import triton
from export.graphs import GraphAndWeights, spatial_graph, temporal_graph
from export.outputs import Labels
from export.parity import ParityReport, measure, parity_clips, require
from export.staging import staged
from sfavivit.dimensions import ModelDimensions, validation_summary
from sfavivit.errors import ExportError
from sfavivit.model import SfaVivit
from sfavivit.repository import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPATIAL_MODEL,
    Backend,
    FileEntry,
    HeadEntry,
    Manifest,
    Precision,
    Repository,
    ShortClip,
    SpatialEntry,
    check_head_name,
    ensemble_model,
    labels_file,
    sha256_of,
    temporal_model,
)
from sfavivit.video import Sampling, Source

ENGINE_FILE, WEIGHTS_FILE = "model.onnx", "model.safetensors"
VERSION = 1
DEFAULT_FPS = 12.5  # Kinetics models take every second frame of 25 fps video
RESIZE_RATIO = 256 / 224  # shortest side over crop, in Scenic's evaluation
SAMPLE_VIDEO = Path(__file__).parent.parent / "docs" / "motions.mp4"

Progress = Callable[[str], None]
Array = NDArray[Any]


@dataclass(frozen=True)
class ExportOptions:
    """What the caller decides. ``None``: what the repository has already, else the default in brackets.

    ``fps`` frames a second that the model sees [12.5]; ``shortest_side`` pixels before the crop [crop *
    256 / 224]; ``precision`` of the spatial engine [fp32]; ``backend`` of the Triton configs [python];
    ``frames`` of a window [the checkpoint's; another number interpolates the temporal positions].
    """

    head: str = "default"
    frames: int | None = None
    fps: float | None = None
    shortest_side: int | None = None
    precision: Precision | None = None
    backend: Backend | None = None
    short_clip: ShortClip = "loop"
    replace: bool = False
    parity_video: Source = SAMPLE_VIDEO


@dataclass(frozen=True)
class ExportSummary:
    """What was written, how it compares with PyTorch, and how long it took."""

    manifest: Manifest
    head: str
    parity: ParityReport
    spatial_bytes: int
    temporal_bytes: int
    seconds: float


def export_model(
    model: SfaVivit, labels: Labels, target: Path, options: ExportOptions, progress: Progress = lambda _: None
) -> ExportSummary:
    """Write ``model`` as a head of the repository at ``target``, which is made if it does not exist.

    The spatial engine is written once; a further head must have the same spatial weights. Whatever fails,
    the repository stays as it was.

    Raises:
        ExportError: options that contradict the model or the repository; a directory that cannot be written.
        ParityError: an engine that does not reproduce the model.
        RepositoryError: what is at ``target`` is not a usable repository.
    """
    start = time.perf_counter()
    old = _existing(target)
    _check_head(old, options)
    if options.frames:
        _resize(model, options.frames)
    dims, weights = model.dims, _numpy_state(model.spatial)
    digest = weights_digest(dims, weights)
    sampling, precision, backend = _agree(old, dims, digest, options)
    with staged(target) as stage:
        if old is None:
            progress(f"writing the spatial engine ({precision})")
            write_engine(stage / SPATIAL_MODEL, spatial_graph(dims, weights, precision), backend)
            _write_text(stage / SPATIAL_MODEL / "config.pbtxt", triton.spatial_config(dims, backend))
        progress(f"writing head {options.head!r}")
        _write_head(stage, options.head, model, labels, backend)
        progress("comparing with PyTorch")
        spatial_file = stage / SPATIAL_MODEL / str(VERSION) / ENGINE_FILE
        temporal_file = stage / temporal_model(options.head) / str(VERSION) / ENGINE_FILE
        clips = parity_clips(options.parity_video, sampling, dims.tubelet_frames)
        report = measure(model, spatial_file, temporal_file, clips)
        require(report, precision)
        spatial = SpatialEntry(
            version=VERSION, precision=precision, weights_sha256=digest, parity=report.spatial
        )
        head = HeadEntry(
            version=VERSION, dimensions=dims, short_clip=options.short_clip, parity=report.temporal
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name="sfavivit",
            backend=backend,
            sampling=sampling,
            spatial=old.spatial if old else spatial,
            heads=(old.heads if old else {}) | {options.head: head},
            files=_digests(stage),
        )
        (stage / MANIFEST_NAME).unlink(missing_ok=True)  # a hard link to the old repository's
        _write_text(stage / MANIFEST_NAME, manifest.to_json())
        spatial_bytes, temporal_bytes = (_size(file.parent) for file in (spatial_file, temporal_file))
    seconds = time.perf_counter() - start
    return ExportSummary(manifest, options.head, report, spatial_bytes, temporal_bytes, seconds)


def _existing(target: Path) -> Manifest | None:
    """The repository already there, verified; a directory that holds something else is left alone."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    return Repository.load(target).manifest


def _check_head(old: Manifest | None, options: ExportOptions) -> None:
    try:
        check_head_name(options.head)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if old and options.head in old.heads and not options.replace:
        raise ExportError(
            f"the repository has a head {options.head!r} already; choose another --head, or --replace it"
        )


def _resize(model: SfaVivit, frames: int) -> None:
    if frames <= 0 or frames % model.dims.tubelet_frames:
        raise ExportError(
            f"--frames {frames} is not a multiple of the tubelet length {model.dims.tubelet_frames}"
        )
    if frames != model.dims.max_frames:
        model.resize_frames(frames)


def _agree(
    old: Manifest | None, dims: ModelDimensions, digest: str, options: ExportOptions
) -> tuple[Sampling, Precision, Backend]:
    """Sampling, precision and backend of the repository, which an export into it may not change."""
    if old is None:
        side = options.shortest_side or round(dims.image_size * RESIZE_RATIO)
        try:
            sampling = Sampling(options.fps or DEFAULT_FPS, side, dims.image_size)
        except ValidationError as error:
            raise ExportError(f"sampling: {validation_summary(error)}") from error
        return sampling, options.precision or "fp32", options.backend or "python"
    if old.spatial.weights_sha256 != digest:
        raise ExportError(
            f"this checkpoint has other spatial weights ({digest[:12]}...) than the repository "
            f"({old.spatial.weights_sha256[:12]}...), so they cannot share a spatial engine; "
            "export into a repository of its own"
        )
    asked = {
        "--fps": (options.fps, old.sampling.fps),
        "--shortest-side": (options.shortest_side, old.sampling.shortest_side),
        "--precision": (options.precision, old.spatial.precision),
        "--backend": (options.backend, old.backend),
    }
    for name, (wanted, present) in asked.items():
        if wanted not in (None, present):
            raise ExportError(
                f"{name} {wanted} differs from the repository's {present}, which all heads share"
            )
    return old.sampling, old.spatial.precision, old.backend


def _write_head(stage: Path, head: str, model: SfaVivit, labels: Labels, backend: Backend) -> None:
    folder, ensemble, dims = stage / temporal_model(head), stage / ensemble_model(head), model.dims
    for replaced in (folder, ensemble):
        shutil.rmtree(replaced, ignore_errors=True)
    write_engine(folder, temporal_graph(dims, _numpy_state(model.temporal)), backend)
    _write_text(folder / "config.pbtxt", triton.temporal_config(head, dims, backend))
    for output, names in labels.items():
        _write_text(folder / labels_file(output), "".join(f"{name}\n" for name in names))
    # Triton wants a version directory even for an ensemble, which has nothing to put there; git keeps no
    # empty directories.
    _write_text(ensemble / str(VERSION) / ".gitkeep", "")
    _write_text(ensemble / "config.pbtxt", triton.ensemble_config(head, dims))


def write_engine(folder: Path, built: GraphAndWeights, backend: Backend) -> None:
    """``1/model.onnx`` and ``1/model.safetensors`` of one model, and the shim if the backend is Python."""
    version = folder / str(VERSION)
    version.mkdir(parents=True)
    weights = version / WEIGHTS_FILE
    save_file(built.stored, weights)
    model = built.bind(WEIGHTS_FILE, _tensor_offsets(weights))
    (version / ENGINE_FILE).write_bytes(model.SerializeToString(deterministic=True))
    if backend == "python":
        triton.write_shim(version)


def _tensor_offsets(file: Path) -> dict[str, int]:
    """Byte at which each tensor of a safetensors file starts: after 8 bytes of length and a JSON header."""
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: start + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"
    }


def weights_digest(dims: ModelDimensions, weights: dict[str, Array]) -> str:
    """sha256 that names a spatial half: its dimensions and its float32 weights."""
    shape = [dims.hidden_size, dims.image_size, dims.patch_size, dims.tubelet_frames, dims.spatial.heads]
    digest = hashlib.sha256(json.dumps(shape).encode())
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], np.float32).data)
    return digest.hexdigest()


def _numpy_state(module: torch.nn.Module) -> dict[str, Array]:
    return {name: cast(Array, value.numpy()) for name, value in module.state_dict().items()}


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _digests(stage: Path) -> dict[str, FileEntry]:
    files = sorted(file for file in stage.rglob("*") if file.is_file() and file != stage / MANIFEST_NAME)
    return {
        file.relative_to(stage).as_posix(): FileEntry(bytes=file.stat().st_size, sha256=sha256_of(file))
        for file in files
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
