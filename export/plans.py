"""Export the models of a repository as TensorRT plans for the GPU of this machine.

A plan lies beside the ``model.onnx`` it replaces; the manifest says which GPU and TensorRT version it is for
and how it compares with PyTorch. Not run on a GPU yet (see ``plan_builder``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from export.exporter import SAMPLE_VIDEO, Progress
from export.graph_builder import GraphAndWeights
from export.graphs import numpy_state, spatial_graph, temporal_graph
from export.parity import SpatialRun, measure_runs, parity_clips, require
from export.plan_profiles import Profile, spatial_profiles, temporal_profiles
from export.source import read_source
from export.staging import staged
from export.writer import changed, seal
from sfavivit.errors import ExportError
from sfavivit.extras import needs_extra
from sfavivit.repository.manifest import (
    FEATURES,
    SPATIAL_MODEL,
    Catalog,
    Manifest,
    PlanEntry,
    PlanPrecision,
    Repository,
    plan_file,
    temporal_model,
)
from sfavivit.types import Features, Frames
from sfavivit.video.source import Source


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan export; chunks in tubelets."""

    precision: PlanPrecision = "fp16"
    small_chunk: int = 8
    large_chunk: int = 32
    timing_cache: Path | None = None
    parity_video: Source = SAMPLE_VIDEO


def export_plans(target: Path, options: PlanOptions, progress: Progress = lambda _: None) -> Manifest:
    """Build plans of the served version of every model; all of them, or the repository stays as it was.

    Raises:
        RepositoryError: not a usable repository.
        ExportError: TensorRT is missing or refuses something; a repository that is not fp32.
        ParityError: a plan that does not reproduce the model.
        EngineError: no GPU, or a plan that does not run.
    """
    repository = Repository.load(target)
    manifest = repository.manifest
    models = {head: read_source(target, [], head).model for head in manifest.heads}
    profiles = spatial_profiles(manifest.dimensions, options.small_chunk, options.large_chunk)
    builder, engine = _load_tensorrt()
    gpu = engine.cuda.current_gpu()
    on_gpu = {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "tensorrt": builder.VERSION}
    progress(f"building the plan of the spatial model ({options.precision})")
    weights = numpy_state(next(iter(models.values())).spatial)
    graph = spatial_graph(manifest.dimensions, weights, options.precision, cast_first=True)
    spatial = _plan(builder, graph, profiles, options.timing_cache)
    run = engine.TensorRtModel(spatial, "the spatial plan").run
    t = manifest.dimensions.tubelet_frames
    both_profiles = [_chunked(run, t * tubelets) for tubelets in (options.small_chunk, options.large_chunk)]
    clips = parity_clips(options.parity_video, manifest.sampling, t)
    plans: dict[str, bytes] = {}
    entries: dict[str, PlanEntry] = {}
    for head, model in models.items():
        progress(f"building the plan of head {head!r}")
        graph = temporal_graph(model.dims, numpy_state(model.temporal))
        temporal = _plan(builder, graph, temporal_profiles(model.dims), options.timing_cache)
        progress(f"comparing head {head!r} with PyTorch")
        temporal_run = engine.TensorRtModel(temporal, f"the plan of head {head!r}").run
        report = measure_runs(model, both_profiles, temporal_run, clips)
        require(report, options.precision)
        name = plan_file(temporal_model(head), manifest.heads[head].version)
        plans[name] = temporal
        entries[name] = PlanEntry(precision="fp32", parity=report.temporal, **on_gpu)
    name = plan_file(SPATIAL_MODEL, manifest.spatial.version)
    # The spatial half of the report is the same for every head.
    plans[name] = spatial
    entries[name] = PlanEntry(precision=options.precision, parity=report.spatial, **on_gpu)
    with staged(target) as stage:
        if Repository.load(target).manifest != manifest:
            raise ExportError(f"{target} was changed while its plans were built; run this again")
        for name, plan in plans.items():
            (stage / name).unlink(missing_ok=True)  # a hard link to the old repository's
            (stage / name).write_bytes(plan)
        manifest = changed(manifest, plans=manifest.plans | entries)
        return seal(stage, Catalog(manifest, repository.labels))


def write_onnx(built: GraphAndWeights, folder: Path) -> Path:
    """Write ``model.onnx`` and its weights into ``folder``; return the former.

    The weights are raw bytes: safetensors has no bfloat16 for NumPy.
    """
    offsets = {}
    with (folder / "weights.bin").open("wb") as stream:
        for name, values in built.stored.items():
            offsets[name] = stream.tell()
            stream.write(np.ascontiguousarray(values).tobytes())
    file = folder / "model.onnx"
    file.write_bytes(built.bind("weights.bin", offsets).SerializeToString())
    return file


def _load_tensorrt() -> tuple[Any, Any]:
    """Import the plan builder and the engine here, so that the rest works without TensorRT."""
    with needs_extra("`python -m export tensorrt`", "gpu", ExportError):
        return import_module("export.plan_builder"), import_module("sfavivit.engines.tensorrt")


def _plan(builder: Any, graph: GraphAndWeights, profiles: Sequence[Profile], cache: Path | None) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        plan: bytes = builder.build_plan(write_onnx(graph, Path(scratch)), profiles, cache)
    return plan


def _chunked(run: Callable[[Frames], dict[str, Features]], chunk_frames: int) -> SpatialRun:
    """Features of a clip [1, F, H, W, 3] by chunks of ``chunk_frames``; the last may be shorter."""

    def features(clip: Frames) -> Features:
        starts = range(0, clip.shape[1], chunk_frames)
        return np.concatenate([run(clip[:, i : i + chunk_frames])[FEATURES] for i in starts], axis=1)

    return features
