"""A real engine that notes which tubelets it was given."""

from __future__ import annotations

from sfavivit.engines.base import Engine
from sfavivit.types import Features, Frames, Logits


class CountingEngine:
    """Wraps a real engine; keeps the frames of each spatial call and counts the temporal ones."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.frames: list[Frames] = []
        self.temporal_calls = 0

    def spatial(self, frames: Frames) -> Features:
        self.frames.append(frames[0].copy())
        return self.engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        self.temporal_calls += 1
        return self.engine.temporal(head, features)
