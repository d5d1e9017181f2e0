"""A real engine that notes which tubelets it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from sfavivit import Recognizer, Repository
from sfavivit.engines import load_engine
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.types import Features, Frames, Logits


class CountingEngine:
    """Wraps a real engine; keeps the frames of each spatial call and counts the temporal ones."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.frames: list[Frames] = []
        self.temporal_calls = 0

    @classmethod
    def recognizer(cls, repository: Path) -> tuple[Recognizer, Self]:
        """A recognizer with calls of 4 tubelets, and the engine that it runs."""
        loaded = Repository.load(repository)
        engine = cls(load_engine("onnxruntime", loaded))
        return Recognizer(LoadedModel(loaded, engine, chunk_tubelets=4)), engine

    @property
    def device(self) -> str:
        return self.engine.device

    def spatial(self, frames: Frames) -> Features:
        self.frames.append(frames[0].copy())
        return self.engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        self.temporal_calls += 1
        return self.engine.temporal(head, features)
