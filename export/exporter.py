"""Export a model, or a head of one, into a model repository, after its engines proved equal to PyTorch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from export.calibration import calibrated, calibration_clips
from export.graph_builder import Array, GraphAndWeights
from export.graphs import numpy_state, spatial_graph, temporal_graph
from export.parity import ParityReport, measure, measure_temporal, parity_clips, require
from export.staging import staged
from export.versions import with_version
from export.writer import ENGINE_FILE, SPATIAL_VERSION, seal, write_engine, write_labels
from sfavivit.config import ModelDimensions, Sampling, validation_summary
from sfavivit.engines.device import Device
from sfavivit.engines.onnxruntime import OnnxModel, require_cuda, usable_device
from sfavivit.errors import ExportError
from sfavivit.models.rotation import rotated
from sfavivit.models.vivit import SfaVivit, TemporalTransformer
from sfavivit.repository.manifest import (
    FEATURES,
    FORMAT_VERSION,
    SPATIAL_MODEL,
    Backend,
    Catalog,
    HeadEntry,
    Labels,
    Manifest,
    Padding,
    Precision,
    Repository,
    SpatialEntry,
    TimelineDecoding,
    check_head_name,
    temporal_model,
)
from sfavivit.types import Features
from sfavivit.utils.cpus import available_cpus
from sfavivit.video.source import Source

DEFAULT_FPS = 12.5  # Kinetics models take every second frame of 25 fps video
RESIZE_RATIO = 256 / 224  # shortest side over crop, in Scenic's evaluation
SAMPLE_VIDEO = Path(__file__).parent.parent / "docs" / "motions.mp4"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export. ``None``: the repository's value, or for a new one the default in brackets.

    ``fps``: frames a second that the model sees [12.5]; ``shortest_side``: pixels before the crop [crop *
    256 / 224]; ``precision`` of the spatial engine [fp32]; ``backend`` of the Triton configs [python];
    ``frames`` of a window [the checkpoint's; another number interpolates the temporal positions];
    ``timeline``: windows and cost of the timeline [the whole window, no cost];
    ``calibration_videos`` for int8 weights [the sample video]; ``device`` that the engines are compared on.
    """

    head: str = "default"
    frames: int | None = None
    fps: float | None = None
    shortest_side: int | None = None
    precision: Precision | None = None
    backend: Backend | None = None
    padding: Padding | None = None
    timeline: TimelineDecoding | None = None
    parity_video: Source = SAMPLE_VIDEO
    calibration_videos: tuple[Source, ...] = ()
    device: Device = "cpu"


@dataclass(frozen=True)
class ExportSummary:
    """Result of an export: the new manifest, and the parity with PyTorch of the engines in use."""

    manifest: Manifest
    head: str
    parity: ParityReport
    seconds: float

    def engine_bytes(self, model: str, version: int) -> int:
        """Bytes of all files of a model's version."""
        folder = f"{model}/{version}/"
        return sum(entry.bytes for name, entry in self.manifest.files.items() if name.startswith(folder))


def export_model(
    model: SfaVivit, labels: Labels, target: Path, options: ExportOptions, progress: Progress = lambda _: None
) -> ExportSummary:
    """Write ``model`` as a head of the repository at ``target``, which is made if it does not exist.

    The spatial engine is written once; a further head must have the same spatial weights. A head that is
    there already gets a further version, which is served from then on. Whatever fails, the repository stays
    as it was.

    Raises:
        ExportError: options that contradict the model or the repository; a directory that cannot be written.
        EngineError, UsageError: the engine of ONNX Runtime cannot run on ``options.device``.
        ParityError: an engine that does not reproduce the model.
        RepositoryError: the directory at ``target`` is not a usable repository.
        VideoError: a video of parity or calibration gives no frames.
    """
    start = time.perf_counter()
    torch.set_num_threads(available_cpus())  # PyTorch itself knows of no CPU quota
    is_new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    old = None if is_new else Repository.load(target)
    check_head(options.head)
    if options.frames:
        _resize(model, options.frames)
    dims, weights = model.dims, numpy_state(model.spatial)
    if options.timeline and (longest := max(options.timeline.window_tubelets)) > dims.max_tubelets:
        raise ExportError(
            f"timeline windows of {longest} tubelets are longer than its window of {dims.max_tubelets}"
        )
    digest = weights_digest(dims, weights)
    sampling, precision, backend = _repository_settings(old, dims, digest, options)
    device = usable_device(options.device, precision)
    if device == "cuda":
        require_cuda()  # now, not after the calibration
    if options.calibration_videos and (old or precision != "int8"):
        raise ExportError(
            "--calibration-video is for the spatial engine of a new int8 repository; leave it out here"
        )
    version = _next_version(old, options.head)
    with staged(target) as stage:
        spatial_file = stage / SPATIAL_MODEL / str(SPATIAL_VERSION) / ENGINE_FILE
        if old is None:
            progress(f"writing the spatial engine ({precision})")
            videos = options.calibration_videos or (SAMPLE_VIDEO,)
            graph = _spatial_graph(dims, weights, precision, sampling, videos, progress)
            write_engine(spatial_file.parent, graph, backend)
        progress(f"writing head {options.head!r}")
        temporal_file = _write_head(stage, options.head, version, model.temporal, labels, backend)
        progress("comparing with PyTorch")
        clips = parity_clips(options.parity_video, sampling, dims.tubelet_frames)
        report = measure(model, spatial_file, temporal_file, clips, device)
        require(report, precision)
        entry = HeadEntry(
            version=version,
            dimensions=dims,
            padding=options.padding or "loop",
            parity=report.temporal,
            timeline=options.timeline,
        )
        if old:
            manifest = with_version(old.manifest, options.head, entry)
        else:
            spatial = SpatialEntry(
                version=SPATIAL_VERSION, precision=precision, weights_sha256=digest, parity=report.spatial
            )
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                name="sfavivit",
                backend=backend,
                sampling=sampling,
                spatial=spatial,
                heads={options.head: entry},
                files={},
            )
        manifest = seal(stage, Catalog(manifest, (old.labels if old else {}) | {options.head: labels}))
    return ExportSummary(manifest, options.head, report, time.perf_counter() - start)


def export_head(
    temporal: TemporalTransformer,
    labels: Labels,
    target: Path,
    head: str,
    parity_features: Sequence[Features],
) -> HeadEntry:
    """Write ``temporal`` as a head of the repository at ``target``, without any spatial half.

    For heads that were trained on features of the repository's own spatial engine, of whatever precision:
    ``parity_features``, float32 [T, D] each, are some of them. The rest as for ``export_model``.

    Raises:
        ExportError: an invalid name, or a head that does not fit the repository.
        ParityError: the engine does not reproduce the head.
        RepositoryError: the directory at ``target`` is not a usable repository.
    """
    check_head(head)
    old = Repository.load(target)
    version, manifest = _next_version(old, head), old.manifest
    with staged(target) as stage:
        engine = OnnxModel(_write_head(stage, head, version, temporal, labels, manifest.backend))
        parity = measure_temporal(temporal, lambda x: engine.run({FEATURES: x}), parity_features)
        require(ParityReport(manifest.spatial.parity, parity), "fp32")
        entry = HeadEntry(version=version, dimensions=temporal.dims, padding="loop", parity=parity)
        try:
            manifest = with_version(manifest, head, entry)
        except ValidationError as error:
            raise ExportError(f"{target}: head {head!r}: {validation_summary(error)}") from error
        seal(stage, Catalog(manifest, old.labels | {head: labels}))
    return entry


def check_head(head: str) -> None:
    """Raise ``ExportError`` for a name that a head cannot have."""
    try:
        check_head_name(head)
    except ValueError as error:
        raise ExportError(str(error)) from error


def weights_digest(dims: ModelDimensions, weights: dict[str, Array]) -> str:
    """Return the sha256 that names a spatial half: of its dimensions and its float32 weights."""
    shape = [dims.hidden_size, dims.image_size, dims.patch_size, dims.tubelet_frames, dims.spatial.heads]
    digest = hashlib.sha256(json.dumps(shape).encode())
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], np.float32).data)
    return digest.hexdigest()


def _spatial_graph(
    dims: ModelDimensions,
    weights: dict[str, Array],
    precision: Precision,
    sampling: Sampling,
    calibration_videos: Sequence[Source],
    progress: Progress,
) -> GraphAndWeights:
    if precision != "int8":
        return spatial_graph(dims, weights, precision)
    weights = rotated(weights)
    clips = calibration_clips(calibration_videos, sampling, dims.tubelet_frames)
    layers = calibrated(dims, weights, clips, lambda layer: progress(f"fitting int8 weights: {layer}"))
    return spatial_graph(dims, weights, "int8", quantized=layers)


def _write_head(
    stage: Path, head: str, version: int, temporal: TemporalTransformer, labels: Labels, backend: Backend
) -> Path:
    """Write a version of a head and return its ``model.onnx``."""
    folder = stage / temporal_model(head) / str(version)
    write_engine(folder, temporal_graph(temporal.dims, numpy_state(temporal)), backend)
    write_labels(folder, labels)
    return folder / ENGINE_FILE


def _next_version(old: Repository | None, head: str) -> int:
    if old is None or head not in old.manifest.heads:
        return 1
    return max(entry.version for entry in old.manifest.versions(head)) + 1


def _resize(model: SfaVivit, frames: int) -> None:
    if frames <= 0 or frames % model.dims.tubelet_frames:
        raise ExportError(
            f"--frames {frames} is not a multiple of the tubelet length {model.dims.tubelet_frames}"
        )
    if frames != model.dims.max_frames:
        model.resize_frames(frames)


def _repository_settings(
    old: Repository | None, dims: ModelDimensions, digest: str, options: ExportOptions
) -> tuple[Sampling, Precision, Backend]:
    """Return sampling, precision and backend, which an export into a repository may not change."""
    if old is None:
        side = options.shortest_side or round(dims.image_size * RESIZE_RATIO)
        try:
            sampling = Sampling(options.fps or DEFAULT_FPS, side, dims.image_size)
        except ValidationError as error:
            raise ExportError(f"sampling: {validation_summary(error)}") from error
        return sampling, options.precision or "fp32", options.backend or "python"
    manifest = old.manifest
    spatial, sampling = manifest.spatial, manifest.sampling
    if spatial.weights_sha256 != digest:
        raise ExportError(
            f"this checkpoint has other spatial weights ({digest[:12]}...) than the repository "
            f"({spatial.weights_sha256[:12]}...), so they cannot share a spatial engine; "
            "export into a repository of its own"
        )
    for name, wanted, present in (
        ("--fps", options.fps, sampling.fps),
        ("--shortest-side", options.shortest_side, sampling.shortest_side),
        ("--precision", options.precision, spatial.precision),
        ("--backend", options.backend, manifest.backend),
    ):
        if wanted not in (None, present):
            raise ExportError(
                f"{name} {wanted} differs from the repository's {present}, which all heads share"
            )
    return sampling, spatial.precision, manifest.backend
