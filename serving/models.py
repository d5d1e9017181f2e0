"""Models behind the service: opened when possible, and opened again when Triton serves other ones."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from serving.settings import Settings
from sfavivit.engines import open_models
from sfavivit.engines.base import Engine
from sfavivit.errors import (
    EngineOutdatedError,
    EngineTimeoutError,
    EngineUnavailableError,
    SfaVivitError,
)
from sfavivit.recognizer import Recognizer
from sfavivit.repository import SPATIAL_MODEL, Catalog, temporal_model

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


@dataclass(frozen=True)
class Models:
    """Catalog and the engine that runs it.

    ``chunk_tubelets``: tubelets per engine call (None: the recognizer's default for the model's size).
    """

    catalog: Catalog
    engine: Engine
    chunk_tubelets: int | None = None

    def recognizer(self, engine: Engine | None = None) -> Recognizer:
        """Return a recognizer over ``engine`` (None: the models' own)."""
        return Recognizer(self.catalog, engine or self.engine, chunk_tubelets=self.chunk_tubelets)

    @property
    def digests(self) -> dict[str, str]:
        """{model: sha256 of its weights}, spatial model first; models of unknown digest are left out."""
        manifest = self.catalog.manifest
        digests = {SPATIAL_MODEL: manifest.spatial.weights_sha256}
        for head, entry in manifest.heads.items():
            weights = manifest.files.get(f"{temporal_model(head)}/{entry.version}/model.safetensors")
            if weights:
                digests[temporal_model(head)] = weights.sha256
        return digests


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
        self._models: Models | None = None
        self._silent_since: float | None = None
        self.unavailable_reason: str | None = None
        self._started = False
        self.check()
        self._started = True
        self.slots = settings.engine_slots or (
            settings.max_streams if settings.remote else slots_in_process(self.current())
        )

    def current(self) -> Models:
        """Return the models to use for a request.

        Raises:
            EngineUnavailableError: there are none at the moment.
        """
        models = self._models
        if models is None:
            raise EngineUnavailableError(f"the models are not available: {self.unavailable_reason}")
        return models

    def check(self) -> str | None:
        """Check the models, opening them (again) if needed; return ``unavailable_reason``."""
        with self._lock:
            try:
                if self._models is None or self._outdated(self._models):
                    # The old models keep serving, and running requests keep them, until the new are open.
                    self._models = self._open()
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
        if self._models and isinstance(self._models.engine, RemoteEngine):
            self._models.engine.close()
            self._models = None

    def _outdated(self, models: Models) -> bool:
        """Return whether Triton serves other models by now. Raises when it does not answer."""
        if not isinstance(models.engine, RemoteEngine):
            return False
        try:
            models.engine.check()
        except EngineOutdatedError:
            return True
        return False

    def _open(self) -> Models:
        settings = self._settings
        if settings.remote:
            from sfavivit.engines.triton import TritonEngine, TritonOptions  # noqa: PLC0415 - an extra

            options = TritonOptions(
                settings.engine_timeout_seconds,
                in_flight=settings.engine_slots or settings.max_streams,
                metadata=self._metadata,
            )
            engine = TritonEngine(settings.location, options)
            return Models(engine.catalog, engine, settings.chunk_tubelets)
        models = open_models(settings.location, settings.engine, threads=settings.threads)
        return Models(*models, settings.chunk_tubelets)


def slots_in_process(models: Models) -> int:
    """Return the number of concurrent calls that suits an engine of this process: cores, or 1.

    A call of a small model uses one core (``default_threads``), so there is one slot a core. A call of a
    large one uses all cores, and a second would compete for their caches (docs/design/serving.md).
    """
    dims = models.catalog.manifest.dimensions
    tubelet = np.zeros((1, dims.tubelet_frames, dims.image_size, dims.image_size, 3), np.uint8)
    models.engine.spatial(tubelet)  # the first call of an engine is slow
    start = time.perf_counter()
    models.engine.spatial(tubelet)
    chunk_seconds = (time.perf_counter() - start) * models.recognizer().chunk_tubelets
    return max(2, len(os.sched_getaffinity(0))) if chunk_seconds < SHORT_CALL_SECONDS else 1
