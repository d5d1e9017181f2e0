"""Clocks and comparisons that several benchmarks share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from sfavivit.engines.base import Engine
from sfavivit.types import Features, Frames, Logits

Key = TypeVar("Key")
Result = TypeVar("Result")


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass
class Meter:
    """Wall and CPU seconds of one kind of work, a sample a round.

    ``own_cpu``: of this process and its children that have ended; ``cpu``: of these, and of ``processes``
    with their children.
    """

    processes: Sequence[psutil.Process] = ()
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    own_cpu: list[float] = field(default_factory=list)

    def run(self, work: Callable[[], Result]) -> Result:
        """Measure ``work`` and return its result."""
        others = [p for root in self.processes for p in (root, *root.children(recursive=True))]
        own, cpu, wall = _own_cpu_seconds(), _cpu_seconds(others), time.perf_counter()
        result = work()
        self.wall.append(time.perf_counter() - wall)
        self.own_cpu.append(_own_cpu_seconds() - own)
        self.cpu.append(_cpu_seconds(others) - cpu + self.own_cpu[-1])
        return result


def run_in_turn(
    works: Mapping[Key, Callable[[], Result]], meters: Mapping[Key, Meter], rounds: int
) -> Iterator[dict[Key, Result]]:
    """Run every work once a round, under its meter; yield the results of each round."""
    for _ in range(rounds):
        yield {name: meters[name].run(work) for name, work in works.items()}


def _own_cpu_seconds() -> float:
    usages = [resource.getrusage(process) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


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

    @property
    def device(self) -> str:
        return self._engine.device

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
