"""Where a time lies on the grid of a steady rate.

Times are whole microseconds to the decoder, and most rates have periods that are not. So a time within a
microsecond of a whole number of periods is taken for just that many: at 15 frames a second 0.133333 s and
0.133334 s both are frame 2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

MICROSECONDS = 1_000_000


class Periods(NamedTuple):
    """``whole`` periods, and what is left of the time in microseconds."""

    whole: int
    rest_microseconds: int


def periods_in(microseconds: int, rate: Fraction) -> Periods:
    """How many periods of ``rate`` (a second) there are in a time."""
    nearest = round(microseconds * rate / MICROSECONDS)
    if abs(microseconds * rate - nearest * MICROSECONDS) <= rate:
        return Periods(nearest, 0)
    whole, rest = divmod(microseconds * rate, MICROSECONDS)
    return Periods(int(whole), round(rest / rate))


def to_microseconds(seconds: float) -> int:
    """The nearest whole number of them."""
    return round(seconds * MICROSECONDS)
