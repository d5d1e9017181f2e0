"""``python -m benchmarks picture``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import DEMO_MODEL
from benchmarks.machine import ROOT


def picture(
    out: Annotated[Path, typer.Option(help="SVG to write.")] = ROOT / "docs" / "demo.svg",
) -> None:
    """Draw the picture of the README."""
    from benchmarks import picture as readme_picture  # noqa: PLC0415 - loads the recognizer

    name = "docs/motions.mp4"
    readme_picture.draw(DEMO_MODEL, ROOT / name, name, out)
