"""The page docs/benchmarks.md and its charts, generated from page.md and the committed results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.command_options import DEMO_MODEL
from benchmarks.figures import RESULTS, ROOT, Result, Row, read_result
from benchmarks.plots import CHARTS, plot
from benchmarks.tables import table
from sfavivit.cli.render import recognition_view
from sfavivit.errors import UsageError
from sfavivit.inference.recognizer import Recognizer
from sfavivit.reports.files import write_file

PLACEHOLDER = re.compile(r"\{(source|table) (\w+)(?:: ([^|}]*\w))?(?: \| ([^}]*))?\}")
"""``{source RESULT}`` or ``{table RESULT: FIGURE; FIGURE | SETTING=VALUE, SETTING=VALUE}``."""
COLUMNS = 88  # of the terminal in the README


def command(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.md and its charts.")] = ROOT / "docs",
    demo: Annotated[
        bool, typer.Option("--demo", help="Only draw OUT/demo.svg, the demo model's answer in the README.")
    ] = False,
) -> None:
    """Write docs/benchmarks.md and its charts from the results."""
    if demo:
        write_file(out / "demo.svg", demo_answer("docs/motions.mp4").encode())
        return
    found = {path.stem: read_result(path) for path in sorted(results.glob("*.json"))}
    template = (Path(__file__).parent / "page.md").read_text()
    write_file(out / "benchmarks.md", page(template, found).encode())
    for name in CHARTS:
        write_file(out / f"benchmark_{name}.png", plot(name, found[name]))


def demo_answer(video: str) -> str:
    """Classify ``video``, a path in the checkout; return what the terminal shows as SVG without fonts."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    answer = replace(Recognizer.load(DEMO_MODEL).classify(ROOT / video), video=video)
    console.print(recognition_view(answer, COLUMNS))
    svg = console.export_svg(title=f"sfavivit classify {video}")
    return re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)


def page(template: str, results: Mapping[str, Result]) -> str:
    """Return a page in Markdown with each ``PLACEHOLDER`` replaced.

    ``results``: by the names of their files.

    Raises:
        UsageError: there is no such result, or it has no such rows.
    """

    def filled(found: re.Match[str]) -> str:
        kind, name, figures, settings = found.groups(default="")
        if name not in results:
            raise UsageError(f"the page shows the result {name!r}, which does not exist; measure it again")
        if kind == "source":
            return f"`{results[name].command}` (`{name}.json`)"
        names = [figure for figure in figures.split("; ") if figure]
        wanted = dict(setting.split("=") for setting in settings.split(", ") if setting)
        rows = [row for row in results[name].rows if _is_shown(row, names, wanted)]
        if not rows:
            raise UsageError(f"the page shows {found[0]}, but {name!r} has no such rows; measure it again")
        return table(rows, names)

    return PLACEHOLDER.sub(filled, template)


def _is_shown(row: Row, names: Sequence[str], wanted: Mapping[str, str]) -> bool:
    settings = {name: str(value) for name, value in row.case.items()}
    return wanted.items() <= settings.items() and set(names) <= row.figures.keys()
