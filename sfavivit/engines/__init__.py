"""Engines, which run the spatial and temporal halves of a repository."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from sfavivit.engines.base import Engine
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import Catalog, Repository

# Engine -> module, class, and the extra that installs its packages. Imported only when it is asked for.
ENGINES = {
    "onnxruntime": ("sfavivit.engines.onnxruntime", "OnnxRuntimeEngine", "sfavivit"),
    "tensorrt": ("sfavivit.engines.tensorrt", "TensorRtEngine", "sfavivit[gpu]"),
    "torch": ("sfavivit.engines.torch", "TorchEngine", "sfavivit[export]"),
    "triton": ("sfavivit.engines.triton", "TritonEngine", "sfavivit[triton]"),
}

TRITON_SCHEME = "triton://"
DEFAULT_ENGINE = "onnxruntime"


def open_models(
    location: str | Path, engine: str | None = None, *, threads: int | None = None
) -> tuple[Catalog, Engine]:
    """Open a repository's directory with an engine of this process, or the models of ``triton://HOST:PORT``.

    Raises:
        UsageError: no such engine, or one that does not fit the location.
        RepositoryError: the repository cannot be used.
        EngineError: the engine cannot start.
    """
    if str(location).startswith(TRITON_SCHEME):
        if engine not in (None, "triton"):
            raise UsageError(f"{location} is served by Triton; the engine cannot be {engine!r}")
        remote = _engine_class("triton")(str(location))
        return remote.catalog, remote
    if engine == "triton":
        raise UsageError(f"the repository of engine 'triton' is {TRITON_SCHEME}HOST:PORT, not {location}")
    repository = Repository.load(location)
    return repository, load_engine(engine or DEFAULT_ENGINE, repository, threads=threads)


def load_engine(name: str, repository: Repository, *, threads: int | None = None) -> Engine:
    """Start an engine of this process on a repository.

    ``threads``: number of CPU threads (default: all that the process may use).

    Raises:
        UsageError: no such engine.
        EngineError: its packages are not installed, or it cannot load the repository.
    """
    return cast(Engine, _engine_class(name)(repository, threads=threads))


def _engine_class(name: str) -> Any:
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    module, cls, extra = ENGINES[name]
    try:
        return getattr(import_module(module), cls)
    except ImportError as error:
        raise EngineError(
            f"engine {name!r} needs a package that is missing ({error.name}): pip install '{extra}'"
        ) from error
