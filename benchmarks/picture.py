"""The picture in the README: what ``sfavivit classify`` shows of the sample video."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from sfavivit.cli.render import recognition_view
from sfavivit.inference.recognizer import Recognizer

COLUMNS = 88


def draw(repository: Path, video: Path, name: str, out: Path) -> None:
    """Classify ``video``, called ``name``; write what a terminal shows as an SVG that loads no fonts."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    answer = replace(Recognizer.load(repository).classify(video), video=name)
    console.print(recognition_view(answer, COLUMNS))
    svg = console.export_svg(title=f"sfavivit classify {name}")
    out.write_text(re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL))
