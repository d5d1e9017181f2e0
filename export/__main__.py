"""``python -m export CHECKPOINT REPOSITORY``: a checkpoint becomes a model repository.

``python -m export tensorrt | rollback | prune | configs ...``: what can be done to a repository afterwards.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from export.exporter import SAMPLE_VIDEO, ExportOptions, ExportSummary, export_model
from export.source import read_source
from export.versions import prune, rewrite_configs, roll_back
from sfavivit.cli.run import run_app
from sfavivit.repository.manifest import Backend, Manifest, Padding, Precision

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


# A first argument that is none of these is a checkpoint.
REPOSITORY_COMMANDS = ("rollback", "prune", "configs")
EPILOG = "See also: python -m export tensorrt | rollback | prune | configs, each with --help."


@app.command(epilog=EPILOG)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="SFA-ViViT .safetensors, a Scenic ViViT factorised-encoder train state, or a repository."
        ),
    ],
    repository: Annotated[Path, typer.Argument(help="Model repository to make, or to add a head to.")],
    head: Annotated[str, typer.Option(help="Name of this classification head.")] = "default",
    labels: Annotated[
        list[str] | None, typer.Option(help="Label file, one a line; NAME=FILE for each of several outputs.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Spatial engine (default: fp32); int8 is for CPUs.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second the model was trained on (default: 12.5).")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames in a window (default: the checkpoint's)."),
    ] = None,
    shortest_side: Annotated[
        int | None,
        typer.Option(help="Pixels of the shortest side (default: crop x 256/224)."),
    ] = None,
    padding: Annotated[
        Padding | None, typer.Option(help="Padding of a video shorter than a window (default: loop).")
    ] = None,
    backend: Annotated[Backend | None, typer.Option(help="Triton backend (default: python).")] = None,
    from_head: Annotated[
        str | None, typer.Option(help="Head of CHECKPOINT, when that is a repository of several.")
    ] = None,
    parity_video: Annotated[
        Path, typer.Option(help="Real frames for the comparison with PyTorch.")
    ] = SAMPLE_VIDEO,
    calibration_video: Annotated[
        list[Path] | None,
        typer.Option(help="Videos like those to come, for int8 weights; repeatable (default: a sample)."),
    ] = None,
) -> None:
    """Turn a checkpoint into a Triton model repository, checked against PyTorch."""
    with console.status("reading the checkpoint") as status:
        source = read_source(checkpoint, labels or [], from_head)
        options = ExportOptions(
            head=head,
            frames=frames,
            fps=fps or (source.sampling.fps if source.sampling else None),
            shortest_side=shortest_side or (source.sampling.shortest_side if source.sampling else None),
            precision=precision,
            backend=backend,
            padding=padding or source.padding,
            parity_video=parity_video,
            calibration_videos=tuple(calibration_video or ()),
        )
        summary = export_model(source.model, source.labels, repository, options, progress=status.update)
    _print_summary(summary, repository)


def _print_summary(summary: ExportSummary, repository: Path) -> None:
    table = Table("engine", "precision", "size", "max abs error", "min cosine", "top-1 agrees", box=None)
    rows = (
        ("spatial", summary.manifest.spatial.precision, summary.spatial_bytes, summary.parity.spatial),
        (f"temporal {summary.head}", "fp32", summary.temporal_bytes, summary.parity.temporal),
    )
    for name, precision, size, parity in rows:
        errors = (f"{parity.max_abs_error:.2g}", f"{parity.min_cosine:.6f}", f"{parity.top1_agreement:.0%}")
        table.add_row(name, precision, f"{size / 1e6:.1f} MB", *errors)
    version = summary.manifest.heads[summary.head].version
    console.print(
        f"{repository}: head {summary.head!r} version {version} written in {summary.seconds:.1f} s",
        highlight=False,
    )
    console.print("Compared with PyTorch fp32 (features of the spatial engine, logits of both in a row):")
    console.print(table)


repository_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
RepositoryArgument = Annotated[
    Path, typer.Argument(help="Model repository; changed all at once or not at all.")
]
HeadOption = Annotated[str, typer.Option(help="Name of the head.")]


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
        f"head {head!r} serves version {manifest.heads[head].version}; also kept: {others or 'none'}",
        highlight=False,
    )


def main() -> None:
    """Pick the application that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in REPOSITORY_COMMANDS:
        run_app(repository_app)
    elif command == "tensorrt":
        del sys.argv[1]
        run_app(import_module("export.tensorrt").app)
    else:
        run_app(app)


if __name__ == "__main__":
    main()
