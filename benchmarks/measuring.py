"""Clocks and comparisons that several benchmarks share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from sfavivit.engines.base import Engine
from sfavivit.types import Features, Frames, Logits


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds() -> float:
    """Return the CPU seconds used by this process and by its children that have ended."""
    usages = [resource.getrusage(process) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ratios(one: Iterable[float], other: Iterable[float]) -> tuple[float, ...]:
    """Return ``one`` over ``other``, sample by sample."""
    return tuple(a / b for a, b in zip(one, other, strict=True))


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines of the last axis, float64 [...], of two arrays [..., D]."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    products = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.asarray(products, np.float64)


class RecordingEngine:
    """Engine that records the seconds of its spatial calls, and the number of tubelets and windows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spatial_seconds: list[float] = []
        self.tubelets = 0
        self.windows = 0

    def spatial(self, frames: Frames) -> Features:
        """Record and pass on."""
        start = time.perf_counter()
        features = self._engine.spatial(frames)
        self.spatial_seconds.append(time.perf_counter() - start)
        self.tubelets += features.shape[0] * features.shape[1]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        """Record and pass on."""
        self.windows += len(features)
        return self._engine.temporal(head, features)
