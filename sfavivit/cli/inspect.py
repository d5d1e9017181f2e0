"""The ``sfavivit inspect`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli.options import DEFAULT_REPOSITORY, DeviceOption, out
from sfavivit.cli.render import repository_view
from sfavivit.engines import DEFAULT_ENGINE, load_engine
from sfavivit.engines.device import Device
from sfavivit.errors import EngineError
from sfavivit.repository.manifest import Repository


def inspect(
    repository: Annotated[Path, typer.Argument(help="Folder of the repository.")] = Path(DEFAULT_REPOSITORY),
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Verify a model repository, and show its models and the device that they run on here."""
    loaded = Repository.load(repository)
    if as_json:
        print(loaded.manifest.to_json(), end="")
    else:
        out.print(repository_view(loaded, _device_in_use(loaded, device)))


def _device_in_use(repository: Repository, device: Device) -> str:
    """Return the device that the default engine takes, or why it takes none; ``cuda`` that fails raises."""
    try:
        return load_engine(DEFAULT_ENGINE, repository, device=device).device
    except EngineError as error:
        if device == "cuda":
            raise
        return f"none: {error}"  # a machine that only stores or exports models need not run them
