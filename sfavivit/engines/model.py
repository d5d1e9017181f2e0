"""A loaded model: its catalog, the engine that runs it, and the checks around each engine call."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfavivit.config import ModelDimensions
from sfavivit.engines import open_models
from sfavivit.engines.base import Engine
from sfavivit.engines.device import Device
from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.repository.manifest import Catalog, Labels, Manifest
from sfavivit.types import Features, Frames, Logits
from sfavivit.utils.stage_timer import StageTimer

MAX_CHUNK_TUBELETS = 8
MAX_CHUNK_TOKENS = 800
"""Tokens per engine call that stay in the caches: of size B (197 tokens each, int8) a tubelet costs 0.24 CPU
seconds in calls of 4 and 0.26 in calls of 8. The demo model (65 tokens each) is cheapest in calls of 8."""


def default_chunk_tubelets(dims: ModelDimensions) -> int:
    """Tubelets per spatial engine call that cost least CPU time for a model of this size."""
    return min(MAX_CHUNK_TUBELETS, max(1, MAX_CHUNK_TOKENS // (1 + dims.patches)))


class LoadedModel:
    """The models of a repository and the engine that runs them. Safe to use from several threads.

    Args:
        catalog: manifest and labels.
        engine: runs both halves.
        chunk_tubelets: tubelets per spatial engine call (default: what suits the model's size).

    Raises:
        UsageError: a chunk of no tubelets.
    """

    def __init__(self, catalog: Catalog, engine: Engine, chunk_tubelets: int | None = None) -> None:
        if chunk_tubelets is not None and chunk_tubelets < 1:
            raise UsageError(f"chunk_tubelets must be at least 1, got {chunk_tubelets}")
        self.catalog = catalog
        self.engine = engine
        self.chunk_tubelets = chunk_tubelets or default_chunk_tubelets(catalog.manifest.dimensions)

    @classmethod
    def load(
        cls,
        location: str | Path,
        *,
        engine: str | None = None,
        threads: int | None = None,
        chunk_tubelets: int | None = None,
        device: Device = "auto",
    ) -> LoadedModel:
        """Load and verify a repository, and start an engine of ``sfavivit.engines.ENGINES`` on it.

        ``triton://HOST:PORT`` instead of a directory uses the models of that Triton server and needs no file.
        ``device``: ``cpu``, ``cuda`` (an error where it cannot be used) or ``auto``.

        Raises:
            RepositoryError: the repository cannot be used.
            EngineError: the engine cannot start, or its server is away.
            UsageError: an unknown engine, one that never runs on ``device``, or a chunk of no tubelets.
        """
        return cls(*open_models(location, engine, threads=threads, device=device), chunk_tubelets)

    def with_engine(self, engine: Engine) -> LoadedModel:
        """Return the same model on another engine."""
        return LoadedModel(self.catalog, engine, self.chunk_tubelets)

    @property
    def manifest(self) -> Manifest:
        return self.catalog.manifest

    @property
    def labels(self) -> dict[str, Labels]:
        """Labels of each class: head -> output -> labels."""
        return self.catalog.labels

    @property
    def chunk_frames(self) -> int:
        """Frames per spatial engine call."""
        return self.chunk_tubelets * self.manifest.dimensions.tubelet_frames

    def features(self, frames: Frames) -> Features:
        """Compute features in one spatial engine call: uint8 [F, H, W, 3] -> float32 [F / t, D].

        Raises:
            EngineError: the engine failed.
        """
        features: Features = self.engine.spatial(frames[None])[0]
        return features

    def logits(self, features: Features, head: str) -> Logits:
        """Compute logits of one window: float32 [T, D], 1 <= T <= T_max -> {output: float32 [C]}.

        Raises:
            HeadNotFoundError: no such head.
            InvalidInputError: another shape or dtype, or values or logits that are not finite.
            EngineError: the engine failed.
        """
        return {name: value[0] for name, value in self.batch_logits(features[None], head).items()}

    def batch_logits(self, features: Features, head: str) -> Logits:
        """Compute logits of equally long windows: float32 [B, T, D] -> {output: float32 [B, C]}.

        One engine call. Raises as ``logits``.
        """
        dims = self.manifest.head(head).dimensions
        shape_fits = features.ndim == 3 and features.shape[2] == dims.hidden_size
        if not shape_fits or not 1 <= features.shape[1] <= dims.max_tubelets or features.dtype != np.float32:
            raise InvalidInputError(
                f"features are {features.dtype} {list(features.shape[1:])}; head {head!r} takes "
                f"float32 [1..{dims.max_tubelets}, {dims.hidden_size}]"
            )
        if not np.isfinite(features).all():
            raise InvalidInputError("features hold NaN or infinity; extract them again")
        logits = dict(self.engine.temporal(head, features))
        if not all(np.isfinite(values).all() for values in logits.values()):
            raise InvalidInputError(
                f"head {head!r} gives logits that are not finite: the features are out of range (up to "
                f"{np.abs(features).max():.3g}); extract them again"
            )
        return logits


class TimedEngine:
    """An engine whose calls are timed: ``timer`` has the stages ``spatial`` and ``temporal``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.timer = StageTimer()

    @property
    def device(self) -> str:
        return self._engine.device

    def spatial(self, frames: Frames) -> Features:
        with self.timer.measure("spatial"):
            return self._engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        with self.timer.measure("temporal"):
            return self._engine.temporal(head, features)
