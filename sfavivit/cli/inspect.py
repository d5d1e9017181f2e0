"""The ``sfavivit inspect`` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli.options import DEFAULT_REPOSITORY, out
from sfavivit.cli.render import repository_view
from sfavivit.repository.manifest import Repository


def inspect(
    repository: Annotated[Path, typer.Argument(help="Folder of the repository.")] = Path(DEFAULT_REPOSITORY),
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Verify a model repository and show its models."""
    loaded = Repository.load(repository)
    if as_json:
        print(json.dumps(loaded.manifest.model_dump(mode="json"), indent=2))
    else:
        out.print(repository_view(loaded))
