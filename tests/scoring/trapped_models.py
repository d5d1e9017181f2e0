"""Models that do something to the process that scores a white video. Light, since every worker imports it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from sfavivit import Recognizer
from sfavivit.engines.base import Engine
from sfavivit.errors import EngineUnavailableError
from sfavivit.scoring.job_options import ModelLocation
from sfavivit.types import Features, Frames, Logits


class Trap:
    """An engine that lets white pictures do what ``what`` says, in the process that sees them."""

    def __init__(self, engine: Engine, what: str, marks: Path) -> None:
        self._engine = engine
        self.device = engine.device
        self._what = what
        self._marks = marks

    def spatial(self, frames: Frames) -> Features:
        if frames.mean() > 250:
            (self._marks / str(time.monotonic_ns())).touch()
            match self._what:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "kill once" if len(list(self._marks.iterdir())) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                case "bug":
                    raise ZeroDivisionError("a bug\nof two lines")
                case "away":
                    raise EngineUnavailableError("Triton is away")
                case "hang":
                    time.sleep(1000)
        return self._engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        return self._engine.temporal(head, features)


@dataclass(frozen=True)
class TrappedModels(ModelLocation):
    """``what`` happens when a white video is scored; ``load``: when the models are loaded."""

    what: str = ""
    marks: Path = Path()

    def load(self) -> Recognizer:
        if self.what == "kill at load":
            os.kill(os.getpid(), signal.SIGKILL)
        recognizer = super().load()
        recognizer.model.engine = Trap(recognizer.model.engine, self.what, self.marks)
        return recognizer
