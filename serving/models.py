"""Models behind the service: opened when possible, and opened again when Triton serves other ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from serving.settings import Settings
from sfavivit.engines import check_remote_device
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import EngineOutdatedError, EngineTimeoutError, EngineUnavailableError, SfaVivitError
from sfavivit.utils.cpus import available_cpus

SHORT_CALL_SECONDS = 0.02
"""Engine calls up to this long gain more than they lose from running at once: see ``slots_in_process``."""

Metadata = Sequence[tuple[str, str]]


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """Engine in another process: see ``sfavivit.engines.triton.TritonEngine``."""

    def check(self) -> None: ...
    def scoped(self) -> RemoteEngine: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


class ModelSource:
    """Current models of the service, and whether they answer.

    Models of this process are opened once and stay. A Triton server may be away, also at the start. An
    inference may take it long, but not the reply to a check: after ``engine_silent_seconds`` without one it
    is taken to hang, and the requests that wait for it fail.

    ``unavailable_reason``: why the last check failed, None when the models answer.
    ``slots``: concurrent engine calls.
    ``metadata``: returns gRPC metadata for a request to Triton; called in the thread that makes the request.

    Raises:
        SfaVivitError: the models cannot be opened, and waiting would not help.
    """

    def __init__(self, settings: Settings, metadata: Callable[[], Metadata] = tuple) -> None:
        self._settings = settings
        self._metadata = metadata
        self._lock = threading.Lock()
        self._model: LoadedModel | None = None
        self._silent_since: float | None = None
        self.unavailable_reason: str | None = None
        self._started = False
        self.check()
        self._started = True
        self.slots = settings.engine_slots or (
            settings.max_streams if settings.remote else slots_in_process(self.current())
        )

    def current(self) -> LoadedModel:
        """Return the model to use for a request.

        Raises:
            EngineUnavailableError: there are none at the moment.
        """
        model = self._model
        if model is None:
            raise EngineUnavailableError(f"the models are not available: {self.unavailable_reason}")
        return model

    def check(self) -> str | None:
        """Check the models, opening them (again) if needed; return ``unavailable_reason``."""
        with self._lock:
            try:
                if self._model is None or self._outdated(self._model):
                    # The old models keep serving, and running requests keep them, until the new are open.
                    self._model = self._open()
            except SfaVivitError as error:
                may_pass = isinstance(error, EngineUnavailableError | EngineTimeoutError)
                if not (self._started or may_pass):
                    raise
                self.unavailable_reason = str(error)
                self._note_silence(silent=isinstance(error, EngineTimeoutError))
            else:
                self.unavailable_reason = None
                self._note_silence(silent=False)
            return self.unavailable_reason

    def _note_silence(self, *, silent: bool) -> None:
        """Drop the engine, and with it the calls in flight, when it has been silent for too long."""
        now = time.monotonic()
        self._silent_since = (self._silent_since or now) if silent else None
        if not self._silent_since or now - self._silent_since < self._settings.engine_silent_seconds:
            return
        if self._model and isinstance(self._model.engine, RemoteEngine):
            self._model.engine.close()
            self._model = None

    def _outdated(self, model: LoadedModel) -> bool:
        """Return whether Triton serves other models by now. Raises when it does not answer."""
        if not isinstance(model.engine, RemoteEngine):
            return False
        try:
            model.engine.check()
        except EngineOutdatedError:
            return True
        return False

    def _open(self) -> LoadedModel:
        settings = self._settings
        if settings.remote:
            check_remote_device(settings.device)
            from sfavivit.engines.triton import TritonEngine, TritonOptions  # noqa: PLC0415 - an extra

            options = TritonOptions(
                settings.engine_timeout_seconds,
                in_flight=settings.engine_slots or settings.max_streams,
                outdated_advice="send the request again",
                metadata=self._metadata,
            )
            engine = TritonEngine(settings.location, options)
            return LoadedModel(engine.catalog, engine, settings.chunk_tubelets)
        return LoadedModel.load(
            settings.location,
            engine=settings.engine,
            threads=settings.threads,
            chunk_tubelets=settings.chunk_tubelets,
            device=settings.device,
        )


def slots_in_process(model: LoadedModel) -> int:
    """Return the number of concurrent calls that suits an engine of this process: cores, or 1.

    A call of a small model uses one core (``default_threads``), so there is one slot a core. A call of a
    large one uses all cores, and a second would compete for their caches (docs/design/serving.md).
    """
    dims = model.manifest.dimensions
    tubelet = np.zeros((1, dims.tubelet_frames, dims.image_size, dims.image_size, 3), np.uint8)
    model.engine.spatial(tubelet)  # the first call of an engine is slow
    start = time.perf_counter()
    model.engine.spatial(tubelet)
    chunk_seconds = (time.perf_counter() - start) * model.chunk_tubelets
    return max(2, available_cpus()) if chunk_seconds < SHORT_CALL_SECONDS else 1
