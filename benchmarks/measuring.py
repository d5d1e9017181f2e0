"""Clocks and comparisons that several benchmarks share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray


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
