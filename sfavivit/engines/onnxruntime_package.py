"""The package behind the module ``onnxruntime``: several packages install that module over one another."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from sfavivit.errors import EngineError
from sfavivit.utils.text import one_line

MODULE = "onnxruntime"
SUPPORTED = ("onnxruntime", "onnxruntime-gpu")
FATAL_ONLY = 4  # of ONNX Runtime's own log: its errors reach the user as EngineError
CHOICE = "pip install 'sfavivit[cpu]' (or 'sfavivit[gpu]' for NVIDIA GPUs)"


@cache
def import_onnxruntime() -> Any:
    """Import ONNX Runtime, with the telemetry of its newer versions switched off.

    Raises:
        EngineError: no package, several, or one that is not supported gives it; or it is damaged.
    """
    check_packages()
    os.environ.setdefault(
        "ORT_DISABLE_TELEMETRY", "1"
    )  # it collects from the import on, into the user's cache
    try:
        module: Any = import_module(MODULE)
        module.set_default_logger_severity(FATAL_ONLY)
    except Exception as error:  # a mixture of two packages fails in many ways
        raise EngineError(
            f"the module {MODULE} is damaged ({one_line(error)}), as after removing one of two packages: "
            f"pip uninstall -y {' '.join(SUPPORTED)} && {CHOICE}"
        ) from error
    return module


def check_packages(search_path: list[str] | None = None) -> None:
    """Check that one supported package gives the module found on ``search_path`` (default: ``sys.path``).

    A module that no package claims passes: other installers than pip need not leave metadata.

    Raises:
        EngineError: see ``import_onnxruntime``.
    """
    spec = PathFinder.find_spec(MODULE, search_path)
    if spec is None:
        raise EngineError(f"ONNX Runtime is not installed: {CHOICE}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    packages = sorted({name for folder in folders for name in _packages_of(folder)})
    if len(packages) > 1:
        raise EngineError(
            f"{' and '.join(packages)} are installed over one another; keep one: "
            f"pip uninstall -y {' '.join(packages)} && {CHOICE}"
        )
    if not set(packages) <= set(SUPPORTED):
        raise EngineError(
            f"{packages[0]} is not supported; replace it: pip uninstall -y {packages[0]} && {CHOICE}"
        )


def _packages_of(module_folder: Path) -> list[str]:
    """Return the names of the packages that installed the module in this folder."""
    metadata = module_folder.parent.glob("o*.dist-info")  # onnxruntime_gpu-..., ort_nightly-...
    found = [Distribution.at(folder) for folder in metadata]
    return [package.metadata["Name"] for package in found if _installs_module(package)]


def _installs_module(package: Distribution) -> bool:
    top_level = package.read_text("top_level.txt")
    if top_level is not None:
        return MODULE in top_level.split()
    return any(file.parts[0] == MODULE for file in package.files or ())
