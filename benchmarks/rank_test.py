"""Do two sets of samples differ? The two-sided Mann-Whitney U test, which looks at ranks alone.

Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other",
Annals of Mathematical Statistics 18, 1947.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

MAX_EXACT_SAMPLES = 40


def mann_whitney_p(one: Sequence[float], other: Sequence[float]) -> float:
    """The probability that samples of one distribution would lie at least so far apart.

    Ties have the mean of their ranks. Up to ``MAX_EXACT_SAMPLES`` together the value is exact, by counting
    all ways to share the ranks out; above it is the normal approximation.
    """
    pooled = sorted([*one, *other])
    # Twice the mean rank, so that they are whole numbers.
    ranks = {value: bisect_left(pooled, value) + bisect_right(pooled, value) + 1 for value in pooled}
    distance = abs(sum(ranks[value] for value in one) - len(one) * (len(pooled) + 1))
    if len(pooled) <= MAX_EXACT_SAMPLES:
        return _exact([ranks[value] for value in pooled], len(one), distance)
    return _normal(Counter(pooled).values(), len(one), len(other), distance / 2)


def _exact(ranks: Sequence[int], size: int, distance: int) -> float:
    """Share of the choices of ``size`` ranks whose sum is at least ``distance`` from the mean of all sums."""
    ways: list[Counter[int]] = [Counter() for _ in range(size + 1)]  # by size and sum
    ways[0][0] = 1
    for rank in ranks:
        for chosen in range(size, 0, -1):
            for total, count in ways[chosen - 1].items():
                ways[chosen][total + rank] += count
    mean = size * (len(ranks) + 1)
    extreme = sum(count for total, count in ways[size].items() if abs(total - mean) >= distance)
    return extreme / math.comb(len(ranks), size)


def _normal(ties: Iterable[int], n: int, m: int, distance: float) -> float:
    """With the corrections for ties and for continuity."""
    tied = sum(t**3 - t for t in ties) / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - tied)
    if not variance:  # all samples are equal
        return 1.0
    return math.erfc(max(0.0, distance - 0.5) / math.sqrt(2 * variance))
