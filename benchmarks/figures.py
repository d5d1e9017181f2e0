"""Results that can be compared: figures with their repeats, by case, in one JSON file a benchmark.

    {"benchmark": "latency", "command": "python -m benchmarks latency", "machine": {...},
     "rows": [{"case": {"engine": "onnxruntime", "size": "B"},
               "figures": {"throughput": {"unit": "tubelets/s", "better": "higher", "samples": [...]}}}]}

``median``, ``low`` and ``high`` stand beside the samples for people who read the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.type_adapter import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import machine
from sfavivit.config import validation_summary
from sfavivit.errors import UsageError
from sfavivit.utils.atomic import atomic_write

RESULTS = machine.ROOT / "benchmarks" / "results"

Better = Literal["higher", "lower", "neither"]
Case = dict[str, str | int | float | bool]


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Figure:
    """One measured quantity in ``unit``, a sample for each repeat. ``better``: which way is improvement."""

    unit: str
    better: Better
    samples: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]

    @property
    def median(self) -> float:
        return median(self.samples)

    def __str__(self) -> str:
        """The median, and how far the repeats lie apart."""
        if len(self.samples) == 1:
            return f"{self.median:.4g} {self.unit}"
        return f"{self.median:.4g} {self.unit} ({min(self.samples):.4g} to {max(self.samples):.4g})"


@dataclass(frozen=True)
class Row:
    """What was measured in one case. A case names the settings, by which two results are matched."""

    case: Case
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Result:
    """A benchmark's rows, the command that made them, and what it ran on (``machine.describe``)."""

    benchmark: str
    command: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]


_ADAPTER = TypeAdapter(Result)


def report(name: str, rows: Sequence[Row], out: Path = RESULTS, *, command: str | None = None) -> Result:
    """Write ``OUT/NAME.json`` and print its table. ``command``: default, the present one."""
    result = Result(name, command or machine.command_line(), machine.describe(), tuple(rows))
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / f"{name}.json", (json.dumps(_plain(result), indent=1) + "\n").encode())
    Console().print(_table(rows))
    return result


def _table(rows: Sequence[Row]) -> Table:
    """A line a figure: a line a case would not fit a terminal."""
    table = Table("case", "figure", "median (range)", box=None)
    for row in rows:
        case = ", ".join(f"{key} {value}" for key, value in row.case.items())
        for name, figure in row.figures.items():
            table.add_row(Text(case), Text(name), Text(str(figure)))
            case = ""
    return table


def read_result(path: Path) -> Result:
    """A file that ``report`` wrote.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: not a result with figures: {validation_summary(error)}") from error


def _plain(result: Result) -> dict[str, Any]:
    plain: dict[str, Any] = _ADAPTER.dump_python(result)
    for row in plain["rows"]:
        for figure in row["figures"].values():
            samples = [float(f"{sample:.6g}") for sample in figure["samples"]]
            figure.update(samples=samples, median=median(samples), low=min(samples), high=max(samples))
    return plain
