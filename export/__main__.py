"""The command line ``python -m export``.

``python -m export CHECKPOINT REPOSITORY`` turns a checkpoint into a model repository;
``python -m export tensorrt | rollback | prune | configs REPOSITORY`` changes a repository.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from export.exporter import SAMPLE_VIDEO, ExportOptions, ExportSummary, export_model
from export.plans import PlanOptions, export_plans
from export.source import read_source
from export.versions import prune, rewrite_configs, roll_back
from sfavivit.cli.options import DeviceOption
from sfavivit.cli.run import run_app
from sfavivit.models.checkpoints import AdapterFunction, KnownDimensions
from sfavivit.repository.manifest import (
    SPATIAL_MODEL,
    Backend,
    Manifest,
    Padding,
    PlanPrecision,
    Precision,
    TimelineDecoding,
    temporal_model,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
repository_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True, highlight=False)

# Any other first argument is a checkpoint.
REPOSITORY_COMMANDS = ("tensorrt", "rollback", "prune", "configs")
EPILOG = "See also: python -m export tensorrt | rollback | prune | configs, each with --help."

ParityVideo = Annotated[
    Path,
    typer.Option(
        help="Video on whose frames the engines are compared with PyTorch.",
        show_default="the sample video",
    ),
]
RepositoryArgument = Annotated[
    Path, typer.Argument(help="Model repository; changed all at once or not at all.")
]
HeadOption = Annotated[str, typer.Option(help="Name of the head.")]


@app.command(epilog=EPILOG)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="SFA-ViViT .safetensors or a training framework's checkpoint of it, a Scenic ViViT "
            "factorised-encoder train state, or a model repository exported before."
        ),
    ],
    repository: Annotated[Path, typer.Argument(help="Model repository to make, or to add a head to.")],
    head: Annotated[str, typer.Option(help="Name of this classification head.")] = "default",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Text file with one label a line, in the order of the classes; NAME=FILE for each of "
            "several outputs."
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the spatial engine (default: fp32): fp16 for GPUs, int8 for CPUs."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second the model was trained on (default: 12.5).")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames in a window (default: the checkpoint's).")
    ] = None,
    shortest_side: Annotated[
        int | None,
        typer.Option(
            help="Pixels of a frame's shorter side before the crop (default: model input x 256/224)."
        ),
    ] = None,
    padding: Annotated[
        Padding | None,
        typer.Option(
            help="Padding of a video shorter than a window: loop (default) repeats it, none leaves it."
        ),
    ] = None,
    timeline_window: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="TUBELETS",
            help="Length of windows that the timeline is made of; repeatable (default: the whole window).",
        ),
    ] = None,
    switch_cost: Annotated[
        float,
        typer.Option(
            min=0, help="Log-probability that a label must gain to begin a segment, with --timeline-window."
        ),
    ] = 2.0,
    backend: Annotated[Backend | None, typer.Option(help="Triton backend (default: python).")] = None,
    from_head: Annotated[
        str | None, typer.Option(help="Head to export, when CHECKPOINT is a repository with several.")
    ] = None,
    from_key: Annotated[
        str | None,
        typer.Option(help="Weights to take from a checkpoint with several sets, such as ema."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="B, L, H, g ...: size of a checkpoint that does not state its dimensions."),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, if the checkpoint does not state them.")
    ] = None,
    temporal_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads over time (default: as those over space).")
    ] = None,
    tubelet_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames in a tubelet, if the checkpoint does not state them.")
    ] = None,
    adapter: Annotated[
        AdapterFunction | None,
        typer.Option(help="Function of the adapter, if the checkpoint does not state it (default: gelu)."),
    ] = None,
    parity_video: ParityVideo = SAMPLE_VIDEO,
    device: DeviceOption = "cpu",
    calibration_video: Annotated[
        list[Path] | None,
        typer.Option(
            help="Example of the videos to classify, which int8 weights are fitted to; repeatable "
            "(default: the sample video)."
        ),
    ] = None,
) -> None:
    """Turn a checkpoint into a Triton model repository, checked against PyTorch."""
    with console.status("reading the checkpoint") as status:
        source = read_source(
            checkpoint,
            labels or [],
            from_head,
            KnownDimensions(size, heads, temporal_heads, tubelet_frames, adapter),
            from_key,
        )
        options = ExportOptions(
            head=head,
            frames=frames,
            fps=fps or (source.sampling.fps if source.sampling else None),
            shortest_side=shortest_side or (source.sampling.shortest_side if source.sampling else None),
            precision=precision,
            backend=backend,
            padding=padding or source.padding,
            timeline=(
                TimelineDecoding(window_tubelets=tuple(timeline_window), switch_cost=switch_cost)
                if timeline_window
                else source.timeline
            ),
            parity_video=parity_video,
            calibration_videos=tuple(calibration_video or ()),
            device=device,
        )
        summary = export_model(source.model, source.labels, repository, options, progress=status.update)
    _print_summary(summary, repository)


def _print_summary(summary: ExportSummary, repository: Path) -> None:
    table = Table("engine", "precision", "size", "max abs error", "min cosine", "top-1 agrees", box=None)
    spatial, version = summary.manifest.spatial, summary.manifest.heads[summary.head].version
    spatial_bytes = summary.engine_bytes(SPATIAL_MODEL, spatial.version)
    temporal_bytes = summary.engine_bytes(temporal_model(summary.head), version)
    for name, precision, size, parity in (
        ("spatial", spatial.precision, spatial_bytes, summary.parity.spatial),
        (f"temporal {summary.head}", "fp32", temporal_bytes, summary.parity.temporal),
    ):
        errors = (f"{parity.max_abs_error:.2g}", f"{parity.min_cosine:.6f}", f"{parity.top1_agreement:.0%}")
        table.add_row(name, precision, f"{size / 1e6:.1f} MB", *errors)
    console.print(f"{repository}: head {summary.head!r} version {version} written in {summary.seconds:.1f} s")
    console.print(
        f"Parity with PyTorch fp32, on {summary.parity.device} (spatial: features; temporal: logits of both "
        "engines):",
        soft_wrap=True,
    )
    console.print(table)


@repository_app.command("tensorrt")
def tensorrt_command(
    repository: Annotated[Path, typer.Argument(help="fp32 model repository; gets a plan of every model.")],
    precision: Annotated[
        PlanPrecision, typer.Option(help="Precision of the spatial model; temporal models stay fp32.")
    ] = "fp16",
    small_chunk: Annotated[int, typer.Option(help="Tubelets in a chunk of one stream.")] = 8,
    large_chunk: Annotated[int, typer.Option(help="Tubelets in the longest chunk of a batch.")] = 32,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that makes the next build faster; made if missing.")
    ] = None,
    parity_video: ParityVideo = SAMPLE_VIDEO,
) -> None:
    """Build TensorRT plans for this machine's GPU, checked against PyTorch."""
    options = PlanOptions(precision, small_chunk, large_chunk, timing_cache, parity_video)
    with console.status("reading the repository") as status:
        manifest = export_plans(repository, options, status.update)
    for name, plan in manifest.plans.items():
        console.print(
            f"{name}: {plan.precision} for {plan.gpu} and TensorRT {plan.tensorrt}; against PyTorch "
            f"max abs error {plan.parity.max_abs_error:.2g}, min cosine {plan.parity.min_cosine:.6f}",
            soft_wrap=True,
        )


@repository_app.command("rollback")
def rollback_command(
    repository: RepositoryArgument,
    head: HeadOption = "default",
    version: Annotated[int | None, typer.Option(help="Any version kept (default: the one before).")] = None,
) -> None:
    """Serve another version of a head; a running Triton follows without a restart."""
    _print_head(roll_back(repository, head, version), head)


@repository_app.command("prune")
def prune_command(repository: RepositoryArgument, head: HeadOption = "default") -> None:
    """Drop every version of a head but the served one."""
    _print_head(prune(repository, head), head)


@repository_app.command("configs")
def configs_command(repository: RepositoryArgument) -> None:
    """Write Triton configurations and shims again, after an update of this program."""
    rewrite_configs(repository)


def _print_head(manifest: Manifest, head: str) -> None:
    others = ", ".join(str(entry.version) for entry in manifest.history.get(head, ()))
    console.print(
        f"head {head!r} serves version {manifest.heads[head].version}; also kept: {others or 'none'}"
    )


def main() -> None:
    """Run the command that the first argument names."""
    run_app(repository_app if sys.argv[1:2] and sys.argv[1] in REPOSITORY_COMMANDS else app)


if __name__ == "__main__":
    main()
