"""The models behind the service: opened when they can be, opened again when Triton serves others."""

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
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import (
    EngineOutdatedError,
    EngineTimeoutError,
    EngineUnavailableError,
    SfaVivitError,
)
from sfavivit.inference.recognizer import Recognizer
from sfavivit.repository.manifest import SPATIAL_MODEL, Catalog, temporal_model

SHORT_CALL_SECONDS = 0.02
"""Up to here, several engine calls at once gain more than they cost: see ``slots_in_process``."""

Metadata = Sequence[tuple[str, str]]


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine elsewhere: see ``sfavivit.engines.triton.TritonEngine``."""

    def check(self) -> None: ...
    def for_one(self) -> RemoteEngine: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Models:
    """A catalog and the engine that runs it. ``chunk_tubelets``: of an engine call; None: its own choice."""

    catalog: Catalog
    engine: Engine
    chunk_tubelets: int | None = None

    def recognizer(self, engine: Engine | None = None) -> Recognizer:
        """Over ``engine`` instead of the models' own, if one is given."""
        return Recognizer(
            LoadedModel(self.catalog, engine or self.engine, chunk_tubelets=self.chunk_tubelets)
        )

    @property
    def digests(self) -> dict[str, str]:
        """{model: sha256 of its weights}, spatial first, as far as the catalog knows them."""
        manifest = self.catalog.manifest
        digests = {SPATIAL_MODEL: manifest.spatial.weights_sha256}
        for head, entry in manifest.heads.items():
            weights = manifest.files.get(f"{temporal_model(head)}/{entry.version}/model.safetensors")
            if weights:
                digests[temporal_model(head)] = weights.sha256
        return digests


class ModelSource:
    """Where the models come from, and how they are now.

    Those of this process are opened once, and then stay. Triton may be away, also at the start. A call may
    take it long, but not the answer to a check: when none came for ``engine_silent_seconds``, it hangs, and
    what waits for it is told so.

    ``why_not``: why the models do not answer, by the last check; None when they do. ``slots``: engine calls
    at once.
    ``metadata``: gRPC metadata for each request to Triton, asked for where the request is made.

    Raises:
        SfaVivitError: the models cannot be opened, and waiting would not help.
    """

    def __init__(self, settings: Settings, metadata: Callable[[], Metadata] = tuple) -> None:
        self._settings = settings
        self._metadata = metadata
        self._lock = threading.Lock()
        self._models: Models | None = None
        self._silent_since: float | None = None
        self.why_not: str | None = None
        self._opened = False
        self.check()
        self._opened = True
        self.slots = settings.engine_slots or self._best_slots()

    def current(self) -> Models:
        """The models to use for a request.

        Raises:
            EngineUnavailableError: there are none at the moment.
        """
        models = self._models
        if models is None:
            raise EngineUnavailableError(f"the models are not available: {self.why_not}")
        return models

    def check(self) -> str | None:
        """Whether the models answer: None, or why not. Opens them (again) if that is what it takes."""
        with self._lock:
            try:
                if self._models is None or self._outdated(self._models):
                    # Until the new ones are open, and for requests that run, the old ones stay.
                    self._models = self._open()
            except SfaVivitError as error:
                may_pass = isinstance(error, EngineUnavailableError | EngineTimeoutError)
                if not (self._opened or may_pass):
                    raise
                self.why_not = str(error)
                self._note_silence(silent=isinstance(error, EngineTimeoutError))
            else:
                self.why_not = None
                self._note_silence(silent=False)
            return self.why_not

    def _best_slots(self) -> int:
        return self._settings.max_streams if self._settings.remote else slots_in_process(self.current())

    def _note_silence(self, *, silent: bool) -> None:
        """Give up the engine, with the calls in flight, when it has been silent for too long."""
        now = time.monotonic()
        self._silent_since = (self._silent_since or now) if silent else None
        if not self._silent_since or now - self._silent_since < self._settings.engine_silent_seconds:
            return
        if self._models and isinstance(self._models.engine, RemoteEngine):
            self._models.engine.close()
            self._models = None

    def _outdated(self, models: Models) -> bool:
        """Whether Triton serves other models by now. Raises when it does not answer."""
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
    """How many calls an engine of this process should have at once, by how long a chunk takes it.

    Calls of a small model use one core each (``default_threads``), so as many as there are cores. A large one
    uses them all, and two calls at once would only share their caches: of the engine's own rate, size B gave
    0.86 with two and 0.95 with one (``python -m benchmarks service``).
    """
    dims = models.catalog.manifest.dimensions
    tubelet = np.zeros((1, dims.tubelet_frames, dims.image_size, dims.image_size, 3), np.uint8)
    models.engine.spatial(tubelet)  # the first call of an engine is slow
    started = time.perf_counter()
    models.engine.spatial(tubelet)
    chunk_seconds = (time.perf_counter() - started) * models.recognizer().chunk_tubelets
    return max(2, len(os.sched_getaffinity(0))) if chunk_seconds < SHORT_CALL_SECONDS else 1
