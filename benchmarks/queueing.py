"""Waiting in line, simulated: requests at random, several servers, first come, first served.

The simulation is for service times of any shape. For exponential and for constant ones theory has exact
answers (Erlang 1917; Pollaczek and Khinchine; see Kleinrock, "Queueing Systems" I, 1975), which the tests
hold it to.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

WARM_UP_SHARE = 0.1  # of the requests: the line is empty at the start, and takes time to grow to its length


@dataclass(frozen=True)
class Wait:
    """At ``utilisation`` of the servers: the wait for one, in mean service times."""

    utilisation: float
    mean: float
    p50: float
    p99: float


def waits(arrivals: Seconds, services: Seconds, servers: int) -> Seconds:
    """How long each request waits for the first of ``servers`` to be free; ``arrivals`` in order. All [n]."""
    free_at = [0.0] * servers  # a heap
    result = np.empty(len(arrivals))
    for number, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        start = max(arrival, free_at[0])
        heapq.heapreplace(free_at, start + service)
        result[number] = start - arrival
    return result


def wait_at(utilisation: float, shape: Seconds, servers: int, rng: np.random.Generator) -> Wait:
    """Waits at random (Poisson) arrivals of a rate that keeps ``servers`` busy for that share of the time.

    ``shape``: [n] service times, in order and unit of no matter; the more, the better the percentiles.
    """
    services = shape / shape.mean()
    arrivals = rng.exponential(1 / (utilisation * servers), len(services)).cumsum()
    settled = waits(arrivals, services, servers)[round(WARM_UP_SHARE * len(services)) :]
    p50, p99 = np.percentile(settled, (50, 99))
    return Wait(utilisation, float(settled.mean()), float(p50), float(p99))


def service_shape(
    count: int, rng: np.random.Generator, *, measured: Seconds | None = None, length_cv: float = 0.0
) -> Seconds:
    """``count`` service times with mean about 1: drawn from ``measured`` ones (none: all alike), each times a
    lognormal length of video.

    ``length_cv``: standard deviation of the lengths over their mean; sigma^2 = ln(1 + cv^2).
    """
    times = np.ones(count) if measured is None else rng.choice(measured / measured.mean(), count)
    variance = np.log1p(length_cv**2)
    lengths: Seconds = rng.lognormal(-variance / 2, np.sqrt(variance), count)
    return times * lengths
