"""The picture in the README: what ``sfavivit classify`` shows of the sample video."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from sfavivit.console import recognition_view
from sfavivit.recognizer import Recognizer

COLUMNS = 88


def draw(repository: Path, video: Path, out: Path) -> None:
    """Classify ``video`` and write the terminal's picture of the answer as an SVG that loads no fonts."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(recognition_view(Recognizer.load(repository).classify(str(video)), COLUMNS))
    svg = console.export_svg(title="sfavivit classify docs/motions.mp4")
    out.write_text(re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL))
