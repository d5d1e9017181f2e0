"""The interface of engines: two pure functions, frames to features and features to logits."""

from __future__ import annotations

from typing import Protocol

from sfavivit.types import Features, Frames, Logits


class Engine(Protocol):
    """Engine of one repository, safe to call from several threads.

    Callers check shapes.

    Raises (in both methods):
        EngineError: the run failed.
    """

    @property
    def device(self) -> str:
        """Device that computes: ``cpu``, ``cuda:N``, or ``triton:cpu`` and ``triton:cuda`` of a server."""
        ...

    def spatial(self, frames: Frames) -> Features:
        """Compute features: uint8 [B, F, H, W, 3] -> float32 [B, F / t, D]."""
        ...

    def temporal(self, head: str, features: Features) -> Logits:
        """Compute logits: float32 [B, T, D], 1 <= T <= T_max -> {output: float32 [B, C]}."""
        ...
