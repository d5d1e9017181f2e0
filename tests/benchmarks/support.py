"""Commands of the benchmarks in this process, and the results that they write."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from benchmarks.__main__ import app
from benchmarks.figures import Row, read_result
from sfavivit.errors import SfaVivitError


def invoke(*arguments: str | Path) -> Result:
    """Run ``python -m benchmarks`` with these arguments."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def refusal(*arguments: str | Path) -> SfaVivitError:
    """Return the error that a command ends with, whose message must be one line."""
    result = invoke(*arguments)
    assert isinstance(result.exception, SfaVivitError), result.output
    assert "\n" not in str(result.exception)
    return result.exception


def rows_of(folder: Path, name: str) -> tuple[Row, ...]:
    """Return the rows of the result ``name`` in ``folder``."""
    return read_result(folder / f"{name}.json").rows
