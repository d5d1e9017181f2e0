"""Engines: what runs the spatial and temporal halves of a repository."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from sfavivit.engines.base import Engine
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository import Repository

# name -> (module, class, the extra that installs what it needs); imported only when asked for.
ENGINES = {
    "onnxruntime": ("sfavivit.engines.onnxruntime", "OnnxRuntimeEngine", "sfavivit"),
    "torch": ("sfavivit.engines.torch", "TorchEngine", "sfavivit[export]"),
}


def load_engine(name: str, repository: Repository, *, threads: int | None = None) -> Engine:
    """Start the engine called ``name`` on ``repository``; ``threads``: CPU threads (default: all it may use).

    Raises:
        UsageError: no such engine.
        EngineError: its packages are not installed, or it cannot load the repository.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    module, cls, extra = ENGINES[name]
    try:
        engine = getattr(import_module(module), cls)
    except ImportError as error:
        raise EngineError(
            f"engine {name!r} needs a package that is missing ({error.name}): pip install '{extra}'"
        ) from error
    return cast(Engine, engine(repository, threads=threads))
