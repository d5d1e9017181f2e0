"""``python -m export tensorrt REPOSITORY``: TensorRT plans of its models, for the GPU of this machine.

A plan lies beside the ``model.onnx`` it replaces; the manifest says which GPU and TensorRT version it is for
and how it compares with PyTorch. Not run on a GPU yet (see ``plan_builder``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from export.exporter import SAMPLE_VIDEO
from export.graphs import spatial_graph, temporal_graph
from export.parity import ParityReport, SpatialRun, measure_runs, parity_clips, require
from export.plan_profiles import spatial_profiles, temporal_profiles
from export.source import read_source
from export.staging import staged
from export.writer import seal
from sfavivit.cli.run import run_app
from sfavivit.errors import ExportError
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import (
    FEATURES,
    SPATIAL_MODEL,
    Catalog,
    Manifest,
    Parity,
    PlanEntry,
    PlanPrecision,
    Repository,
    plan_file,
    temporal_model,
)
from sfavivit.types import Frames
from sfavivit.video.source import Source

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

Progress = Callable[[str], None]


@app.command()
def tensorrt(
    repository: Annotated[Path, typer.Argument(help="fp32 model repository; gets a plan of every model.")],
    precision: Annotated[
        PlanPrecision, typer.Option(help="Spatial model; the temporal models are small and stay fp32.")
    ] = "fp16",
    small_chunk: Annotated[int, typer.Option(help="Tubelets in a chunk of one stream.")] = 8,
    large_chunk: Annotated[int, typer.Option(help="Tubelets in the longest chunk of a batch.")] = 32,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that makes the next build faster; made if missing.")
    ] = None,
    parity_video: Annotated[
        Path, typer.Option(help="Real frames for the comparison with PyTorch.")
    ] = SAMPLE_VIDEO,
) -> None:
    """Build TensorRT plans for this machine's GPU, checked against PyTorch."""
    options = PlanOptions(precision, small_chunk, large_chunk, timing_cache, parity_video)
    with console.status("reading the repository") as status:
        manifest = export_plans(repository, options, status.update)
    for name, plan in manifest.plans.items():
        console.print(
            f"{name}: {plan.precision} for {plan.gpu} and TensorRT {plan.tensorrt}; against PyTorch "
            f"max abs error {plan.parity.max_abs_error:.2g}, min cosine {plan.parity.min_cosine:.6f}",
            highlight=False,
            soft_wrap=True,
        )


@dataclass(frozen=True)
class PlanOptions:
    """What the caller decides; chunks in tubelets."""

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
    maker = _Maker(options.timing_cache)
    progress(f"building the plan of the spatial model ({options.precision})")
    weights = _numpy_state(models[next(iter(models))].spatial)
    graph = spatial_graph(manifest.dimensions, weights, options.precision, cast_first=True)
    spatial = maker.plan(graph, profiles)
    clips = parity_clips(options.parity_video, manifest.sampling, manifest.dimensions.tubelet_frames)
    plans = {}
    for head, model in models.items():
        progress(f"building the plan of head {head!r}")
        temporal = maker.plan(
            temporal_graph(model.dims, _numpy_state(model.temporal)), temporal_profiles(model.dims)
        )
        progress(f"comparing head {head!r} with PyTorch")
        report = maker.compare(model, spatial, temporal, clips, (options.small_chunk, options.large_chunk))
        require(report, options.precision)
        version = manifest.heads[head].version
        plans[plan_file(temporal_model(head), version)] = (temporal, maker.entry("fp32", report.temporal))
    name = plan_file(SPATIAL_MODEL, manifest.spatial.version)
    # The spatial half of the report is the same for every head.
    plans[name] = (spatial, maker.entry(options.precision, report.spatial))
    with staged(target) as stage:
        if Repository.load(target).manifest != manifest:
            raise ExportError(f"{target} was changed while its plans were built; run this again")
        for name, (plan, _) in plans.items():
            (stage / name).unlink(missing_ok=True)  # a hard link to the old repository's
            (stage / name).write_bytes(plan)
        entries = {name: entry for name, (_, entry) in plans.items()}
        kept = {**dict(manifest), "plans": manifest.plans | entries}
        return seal(stage, Catalog(Manifest(**kept), repository.labels))


class _Maker:
    """TensorRT on this machine's GPU; imported here, so that the rest works where it is not.

    Raises:
        ExportError: TensorRT or CUDA for Python is not installed.
        EngineError: no GPU.
    """

    def __init__(self, timing_cache: Path | None) -> None:
        try:
            self._builder: Any = import_module("export.plan_builder")
            self._engine: Any = import_module("sfavivit.engines.tensorrt")
        except ImportError as error:
            raise ExportError(
                f"plans need a package that is missing ({error.name}): pip install 'sfavivit[gpu]'"
            ) from error
        self._gpu = self._engine.cuda.current_gpu()
        self._timing_cache = timing_cache

    def plan(self, graph: Any, profiles: Any) -> bytes:
        with tempfile.TemporaryDirectory() as scratch:
            plan: bytes = self._builder.build_plan(graph, profiles, Path(scratch), self._timing_cache)
        return plan

    def compare(
        self, model: SfaVivit, spatial: bytes, temporal: bytes, clips: list[Frames], chunks: tuple[int, int]
    ) -> ParityReport:
        """The worse of both profiles: the clips in small chunks, and in large ones."""
        frames_run = self._engine.TensorRtModel(spatial, "the spatial plan").run
        features_run = self._engine.TensorRtModel(temporal, "the temporal plan").run
        t = model.dims.tubelet_frames
        small, large = (
            measure_runs(model, _chunked(frames_run, tubelets * t), features_run, clips)
            for tubelets in chunks
        )
        return ParityReport(_worse(small.spatial, large.spatial), _worse(small.temporal, large.temporal))

    def entry(self, precision: PlanPrecision, parity: Parity) -> PlanEntry:
        return PlanEntry(
            gpu=self._gpu.name,
            compute_capability=self._gpu.compute_capability,
            tensorrt=self._builder.TENSORRT_VERSION,
            precision=precision,
            parity=parity,
        )


def _chunked(run: Callable[[Frames], dict[str, Any]], chunk_frames: int) -> SpatialRun:
    """Features of a clip [1, F, ...] by chunks of ``chunk_frames``; the last may be shorter."""

    def features(clip: Frames) -> Any:
        starts = range(0, clip.shape[1], chunk_frames)
        return np.concatenate([run(clip[:, i : i + chunk_frames])[FEATURES] for i in starts], axis=1)

    return features


def _worse(a: Parity, b: Parity) -> Parity:
    """NaN is worse than anything."""
    return Parity(
        max_abs_error=float(np.max([a.max_abs_error, b.max_abs_error])),
        min_cosine=float(np.min([a.min_cosine, b.min_cosine])),
        top1_agreement=min(a.top1_agreement, b.top1_agreement),
    )


def _numpy_state(module: Any) -> dict[str, Any]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


if __name__ == "__main__":
    run_app(app)
