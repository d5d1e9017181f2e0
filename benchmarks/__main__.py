"""Command line of ``python -m benchmarks``."""

from __future__ import annotations

import ast
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sfavivit.cli.run import run_app, show_bare_flags

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some benchmarks import ONNX Runtime themselves

COMMANDS = tuple(
    path.stem.replace("_", "-")
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if "\ndef command(" in path.read_text()
)
"""Commands in alphabetical order; each is the function ``command`` of the module of its name."""


class LazyGroup(TyperGroup):
    """Commands of which only the one that runs is imported; the list of them reads their docstrings."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Return a stand-in with the command's help, ``None`` for an unknown name."""
        return TyperCommand(cmd_name, help=read_summary(cmd_name)) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that ``args`` begin with."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Import the module of a command and return it as a command of click."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(import_module(f"benchmarks.{name.replace('-', '_')}").command)
    command = get_command(single)
    show_bare_flags(command)
    return command


def read_summary(name: str) -> str:
    """Read the first line of the command's docstring from its source."""
    tree = ast.parse((Path(__file__).parent / f"{name.replace('-', '_')}.py").read_bytes())
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "command"
    )
    return (ast.get_docstring(function) or "").partition("\n")[0]


app = typer.Typer(cls=LazyGroup, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """Measure this system; results are JSON files in benchmarks/results."""


if __name__ == "__main__":
    run_app(app)
