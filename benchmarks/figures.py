"""Results of benchmarks: measured figures by case, written as one JSON file a benchmark.

    {"benchmark": "latency", "command": "python -m benchmarks latency", "machine": {...},
     "rows": [{"case": {"engine": "onnxruntime", "size": "B"},
               "figures": {"throughput": {"unit": "tubelets/s", "better": "higher", "samples": [...]}}}]}

``median``, ``low`` and ``high`` stand beside the samples for people who read the file.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.type_adapter import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfavivit.config import validation_summary
from sfavivit.errors import UsageError
from sfavivit.utils.atomic import atomic_write
from sfavivit.utils.cpus import available_cpus

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "sfavivit",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "torch",
    "transformers",
    "imageio-ffmpeg",
)
"""Packages whose versions are part of a result."""

Better = Literal["higher", "lower", "neither"]
Case = dict[str, str | int | float | bool]


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Figure:
    """One measured quantity in ``unit``: a sample a repeat, and the direction of improvement."""

    unit: str
    better: Better
    samples: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]

    @property
    def median(self) -> float:
        return median(self.samples)

    def __str__(self) -> str:
        """Return the median and the range of the samples."""
        if len(self.samples) == 1:
            return f"{self.median:.4g} {self.unit}"
        return f"{self.median:.4g} {self.unit} ({min(self.samples):.4g} to {max(self.samples):.4g})"


@dataclass(frozen=True)
class Row:
    """Figures of one case. A case maps settings to values; two results are matched by it."""

    case: Case
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Result:
    """Rows of a benchmark, the command that made them, and the machine (``describe_machine``)."""

    benchmark: str
    command: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]


_ADAPTER = TypeAdapter(Result)


def seconds_figure(*seconds: float) -> Figure:
    """Return durations in seconds as a figure, lower being better."""
    return Figure("s", "lower", seconds)


def report(name: str, rows: Sequence[Row], out: Path = RESULTS, *, command: str | None = None) -> Result:
    """Write ``out/name.json`` and print its table. ``command`` defaults to the present command line."""
    command = command or shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    result = Result(name, command, describe_machine(), tuple(rows))
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / f"{name}.json", dump_result(result).encode())
    table = Table("case", "figure", "median (range)", box=None)
    for row in rows:
        case = ", ".join(f"{key} {value}" for key, value in row.case.items())
        for figure_name, figure in row.figures.items():
            table.add_row(Text(case), Text(figure_name), Text(str(figure)))
            case = ""
    Console().print(table)
    return result


def read_result(path: Path) -> Result:
    """Read a file that ``report`` wrote.

    Raises:
        UsageError: the file cannot be read, or is not a result.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: not a result with figures: {validation_summary(error)}") from error


def dump_result(result: Result) -> str:
    """Return a result as JSON, with six digits a sample and the samples of a figure on one line."""
    plain: dict[str, Any] = _ADAPTER.dump_python(result)
    for row in plain["rows"]:
        for figure in row["figures"].values():
            samples = [float(f"{sample:.6g}") for sample in figure["samples"]]
            figure.update(samples=samples, median=median(samples), low=min(samples), high=max(samples))
    text = json.dumps(plain, indent=1)
    innermost = r'\{\s+"unit"[^{}]*\}'
    return re.sub(innermost, lambda figure: re.sub(r"\n\s*", " ", figure[0]), text) + "\n"


def split_settings(cases: Sequence[Case]) -> tuple[Case, list[str]]:
    """Return the settings that all cases share, and the names of the others, in their order."""
    names = dict.fromkeys(name for case in cases for name in case)
    shared = {
        name: cases[0][name]
        for name in names
        if all(name in case and case[name] == cases[0][name] for case in cases)
    }
    return shared, [name for name in names if name not in shared]


def number(value: float) -> str:
    """Return three digits, or all digits of a larger number before the point: 0.0123, 4.57, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def label(name: str, unit: str) -> str:
    """Return a figure's name with its unit, such as ``latency p50 (ms)`` or ``tubelets/s``."""
    if unit.startswith(f"{name}/"):
        return unit
    return name if unit in ("", name) else f"{name} ({unit})"


def table(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Return a Markdown table with a column for each setting that varies and each figure of ``names``.

    Without ``names`` it has all figures. Figures are medians, with the range of the samples in parentheses.
    """
    _, settings = split_settings([row.case for row in rows])
    units = {name: figure.unit for row in rows for name, figure in row.figures.items()}
    shown = [name for name in names or units if name in units]
    lines = [[*settings, *(label(name, units[name]) for name in shown)]]
    lines.append(["---"] * len(settings) + ["---:"] * len(shown))
    for row in rows:
        settled = [str(row.case.get(name, "")) for name in settings]
        lines.append([*settled, *(_cell(row.figures.get(name)) for name in shown)])
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    median, low, high = (number(one) for one in (figure.median, min(figure.samples), max(figure.samples)))
    return median if low == high else f"{median} ({low}–{high})"


def describe_machine() -> dict[str, Any]:
    """Return date, processor, cores of this process, package versions and git commit."""
    installed = {package.name: package.version for package in distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": available_cpus(),
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
