"""The demo model: ``python -m examples.motions train``, and its sample video: ``... sample VIDEO``.

The work is imported when a command runs, so that ``--help`` needs no torch.
"""

# ruff: noqa: PLC0415 - as said above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli.options import DeviceOption
from sfavivit.cli.run import run_app

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and labels.")] = Path("runs/demo"),
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository to write, which must not exist (default: OUT/model_repository)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of clips and initial weights.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, max=10, help="Factor of the numbers of steps and clips, for a trial.")
    ] = 1.0,
    held_out: Annotated[int, typer.Option(min=1, help="Number of held-out clips to measure on.")] = 240,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Start from OUT/stage_one.safetensors.")] = False,
) -> None:
    """Train the demo model in two stages, on the CPU, export it, and measure it on real video files."""
    from examples.motions.job import run
    from examples.motions.train import DemoConfig

    run(
        DemoConfig(seed=seed).scaled(scale),
        out,
        repository or out / "model_repository",
        held_out,
        resume=resume,
        device=device,
    )


@app.command()
def sample(video: Annotated[Path, typer.Argument(help="MP4 file to write.")]) -> None:
    """Write the sample video: five motions, one after the other."""
    from examples.motions.videos import write_sample

    write_sample(video)


if __name__ == "__main__":
    run_app(app)
