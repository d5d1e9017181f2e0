"""``python -m export CHECKPOINT REPOSITORY``: a checkpoint becomes a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from export.exporter import SAMPLE_VIDEO, ExportOptions, ExportSummary, export_model
from export.outputs import label_outputs, read_label_files
from sfavivit.app import run_app
from sfavivit.checkpoints import load_checkpoint
from sfavivit.repository import Backend, Precision, ShortClip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="SFA-ViViT .safetensors, or a Scenic ViViT factorised-encoder train state.")
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
    short_clip: Annotated[
        ShortClip, typer.Option(help="What becomes of a video shorter than a window.")
    ] = "loop",
    backend: Annotated[Backend | None, typer.Option(help="Triton backend (default: python).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a head of the same name.")] = False,
    parity_video: Annotated[
        Path, typer.Option(help="Real frames for the comparison with PyTorch.")
    ] = SAMPLE_VIDEO,
) -> None:
    """Turn a checkpoint into a Triton model repository, checked against PyTorch."""
    options = ExportOptions(
        head=head,
        frames=frames,
        fps=fps,
        shortest_side=shortest_side,
        precision=precision,
        backend=backend,
        short_clip=short_clip,
        replace=replace,
        parity_video=parity_video,
    )
    with console.status("reading the checkpoint") as status:
        model = load_checkpoint(checkpoint)
        names = label_outputs(model, read_label_files(labels or []))
        summary = export_model(model, names, repository, options, progress=status.update)
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
    console.print(f"{repository}: head {summary.head!r} written in {summary.seconds:.1f} s", highlight=False)
    console.print("Compared with PyTorch fp32 (features of the spatial engine, logits of both in a row):")
    console.print(table)


if __name__ == "__main__":
    run_app(app)
