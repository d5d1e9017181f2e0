"""Engines, which run the spatial and temporal halves of a repository."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from sfavivit.engines.base import Engine
from sfavivit.engines.device import Device
from sfavivit.errors import EngineError, UsageError
from sfavivit.extras import needs_extra
from sfavivit.repository.manifest import Catalog, Repository

# Engine -> module, class, and the extra that installs its packages. Imported only when it is asked for.
ENGINES = {
    "onnxruntime": ("sfavivit.engines.onnxruntime", "OnnxRuntimeEngine", "cpu"),
    "tensorrt": ("sfavivit.engines.tensorrt", "TensorRtEngine", "gpu"),
    "torch": ("sfavivit.engines.torch", "TorchEngine", "export"),
    "triton": ("sfavivit.engines.triton", "TritonEngine", "triton"),
}

TRITON_SCHEME = "triton://"
DEFAULT_ENGINE = "onnxruntime"
MAX_THREADS = 1024


def open_models(
    location: str | Path,
    engine: str | None = None,
    *,
    threads: int | None = None,
    device: Device = "auto",
) -> tuple[Catalog, Engine]:
    """Open a repository's directory with an engine of this process, or the models of ``triton://HOST:PORT``.

    Raises:
        UsageError: no such engine, or an engine or device that does not fit the location.
        RepositoryError: the repository cannot be used.
        EngineError: the engine cannot start.
    """
    if str(location).startswith(TRITON_SCHEME):
        if engine not in (None, "triton"):
            raise UsageError(f"{location} is served by Triton; the engine cannot be {engine!r}")
        check_remote_device(device)
        remote = _engine_class("triton")(str(location))
        return remote.catalog, remote
    if engine == "triton":
        raise UsageError(f"the repository of engine 'triton' is {TRITON_SCHEME}HOST:PORT, not {location}")
    repository = Repository.load(location)
    return repository, load_engine(engine or DEFAULT_ENGINE, repository, threads=threads, device=device)


def load_engine(
    name: str, repository: Repository, *, threads: int | None = None, device: Device = "auto"
) -> Engine:
    """Start an engine of this process on a repository.

    ``threads``: number of CPU threads (default: all that the process may use).

    Raises:
        UsageError: no such engine, one that never runs on ``device``, or not 1 to ``MAX_THREADS`` threads.
        EngineError: its packages are not installed, it cannot load the repository, or it cannot use CUDA.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads must be from 1 to {MAX_THREADS}, got {threads}")
    return cast(Engine, _engine_class(name)(repository, threads=threads, device=device))


def check_remote_device(device: Device) -> None:
    """Raise ``UsageError`` for a device of models that Triton serves: its repository decides that."""
    if device != "auto":
        raise UsageError(f"Triton decides where its models run; leave out the device {device!r}")


def _engine_class(name: str) -> Any:
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    module, cls, extra = ENGINES[name]
    with needs_extra(f"engine {name!r}", extra, EngineError):
        return getattr(import_module(module), cls)
