"""Index arithmetic of segments."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sfavivit.video.timebase import MICROSECONDS, FrameRange, to_microseconds


def test_the_example_of_the_docstring() -> None:
    assert FrameRange.of(0.20, 0.40, Fraction(25, 2)) == FrameRange(
        skip=2, offset_microseconds=40_000, count=3
    )


@given(
    start=st.floats(0, 1e5),
    length=st.none() | st.floats(1e-5, 1e3),
    rate=st.fractions(Fraction(1, 100), 240, max_denominator=1001),
)
def test_a_range_has_the_frames_of_its_segment(start: float, length: float | None, rate: Fraction) -> None:
    frames = FrameRange.of(start, None if length is None else start + length, rate)
    period = MICROSECONDS / rate
    first = frames.offset_microseconds + frames.skip * period
    assert abs(first - to_microseconds(start)) <= 1
    assert 0 <= frames.offset_microseconds <= period
    if length is None:
        assert frames.count is None
        return
    assert frames.count is not None
    end = to_microseconds(start + length)
    last = first + (frames.count - 1) * period
    assert last < end + 2 or frames.count == 1
    assert last + period >= end - 2
