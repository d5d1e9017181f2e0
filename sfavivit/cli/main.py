"""The ``sfavivit`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from sfavivit.cli.classify import classify
from sfavivit.cli.evaluate import evaluate
from sfavivit.cli.features import features
from sfavivit.cli.inspect import inspect
from sfavivit.cli.run import run_app
from sfavivit.cli.score import score
from sfavivit.cli.store import store_app

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (classify, inspect, score, features, evaluate):
    app.command()(command)
app.add_typer(store_app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("sfavivit"))
        raise typer.Exit


@app.callback()
def describe(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Long-video action recognition: every tubelet of a video is computed once."""


def main() -> None:
    """Entry point of the ``sfavivit`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
