"""Index arithmetic between times in seconds and the frames of a steady rate.

The decoder's times are whole microseconds, and the periods of most rates are not. A time within a microsecond
of a whole number of periods therefore counts as exactly that many: at 15 frames a second, both 0.133333 s and
0.133334 s are frame 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

MICROSECONDS = 1_000_000
_MAX_INT32 = (1 << 31) - 1


class Periods(NamedTuple):
    """A time as ``whole`` periods and a remainder in microseconds."""

    whole: int
    rest_microseconds: int


def periods_in(microseconds: int, rate: Fraction) -> Periods:
    """Divide a time into periods of ``rate`` per second."""
    nearest = round(microseconds * rate / MICROSECONDS)
    if abs(microseconds * rate - nearest * MICROSECONDS) <= rate:
        return Periods(nearest, 0)
    whole, rest = divmod(microseconds * rate, MICROSECONDS)
    return Periods(int(whole), round(rest / rate))


def to_microseconds(seconds: float) -> int:
    """Round a time to whole microseconds."""
    return round(seconds * MICROSECONDS)


def in_seconds(microseconds: int) -> Fraction:
    """Return whole microseconds as exact seconds."""
    return Fraction(microseconds, MICROSECONDS)


@dataclass(frozen=True)
class FrameRange:
    """Frames of a segment, as the decoder counts them.

    The decoder emits the picture on display at ``offset_microseconds`` + i periods, i = 0, 1, ... Of these
    the first ``skip`` lie before the segment, and the next ``count`` are its frames (None: all that follow).
    The segment [0.20, 0.40) at 12.5 frames a second starts 2 periods of 0.08 s and 0.04 s after 0:

        seconds   0    0.04 0.08 0.12 0.16 0.20 0.24 0.28 0.32 0.36 0.40
        segment                            [────────────────────────)
        emitted        i=0       i=1       i=2       i=3       i=4
        frame          skip = 2            k=0       k=1       k=2       count = 3
    """

    skip: int
    offset_microseconds: int
    count: int | None

    @classmethod
    def of(cls, start_seconds: float, end_seconds: float | None, rate: Fraction) -> FrameRange:
        """Return the frames of [``start_seconds``, ``end_seconds``) at ``rate`` per second; at least one."""
        start = to_microseconds(start_seconds)
        skip, offset = periods_in(start, rate)
        if end_seconds is None:
            return cls(skip, offset, None)
        # A start that is a frame's time is counted from 0, however it was rounded; any other from itself.
        origin, before = (start, 0) if offset else (0, skip)
        whole, rest = periods_in(to_microseconds(end_seconds) - origin, rate)
        return cls(skip, offset, max(1, whole + (rest > 0) - before))


@dataclass(frozen=True)
class FrameTicks:
    """Time base in which a period of a frame rate is a whole number of ticks.

    ``period``: ticks of a frame, about a microsecond each, so that ``time_base`` fits ffmpeg's 32 bits.
    """

    rate: Fraction
    period: int

    @classmethod
    def of_rate(cls, rate: Fraction) -> FrameTicks:
        """Return the time base for ``rate`` frames a second."""
        return cls(rate, max(1, min(round(MICROSECONDS / rate), _MAX_INT32 // rate.numerator)))

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick."""
        return 1 / (self.rate * self.period)

    def of_seconds(self, seconds: float | Fraction) -> int:
        """Round a time to whole ticks."""
        return round(Fraction(seconds) / self.time_base)

    def to_seconds(self, ticks: int) -> float:
        """Return the seconds of ``ticks``."""
        return float(ticks * self.time_base)

    def frames_before(self, ticks: int) -> int:
        """Return the number of frames k = 0, 1, ... whose time k periods lies before ``ticks``."""
        return max(0, -(-ticks // self.period))
