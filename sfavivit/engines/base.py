"""What an engine is: two pure functions, from frames to features and from features to logits."""

from __future__ import annotations

from typing import Protocol

from sfavivit.types import Features, Frames, Logits


class Engine(Protocol):
    """Runs the halves of one repository. Safe to call from several threads.

    Callers check shapes; what fails in a run raises ``EngineError``.
    """

    def spatial(self, frames: Frames) -> Features:
        """uint8 [B, F, H, W, 3] -> float32 [B, F / t, D]."""
        ...

    def temporal(self, head: str, features: Features) -> Logits:
        """float32 [B, T, D], 1 <= T <= T_max -> {output: float32 [B, C]}."""
        ...
