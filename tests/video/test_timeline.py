"""Frames from pictures whose times are irregular or wrong, against their definition."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.errors import VideoLimitError
from sfavivit.video.timebase import FrameTicks
from sfavivit.video.timeline import Timeline

TICKS = FrameTicks.of_rate(Fraction(25, 2))
HOUR = 3600.0

steps = st.lists(st.integers(1, TICKS.of_seconds(0.4)), min_size=1, max_size=80)


def frames(
    times: Sequence[int], end: int, *, max_gap_seconds: float = HOUR, restarts: bool = False
) -> tuple[list[int], list[str]]:
    """Numbers of the pictures that the frames show, and the warnings."""
    timeline: Timeline[int] = Timeline(TICKS, 0, max_gap_seconds, restarts)
    runs = [run for number, time in enumerate(times) for run in timeline.add(time, number)]
    runs += timeline.end(end)
    return [run.picture for run in runs for _ in range(run.frame_count)], timeline.warnings()


def on_display(times: Sequence[int], end: int) -> list[int]:
    """Numbers of the pictures on display at each period before ``end``, by definition; at least one frame."""
    instants = range(0, max(end, 1), TICKS.period)
    return [max((n for n, time in enumerate(times) if time <= at), default=0) for at in instants]


def at_times(steps: Sequence[int]) -> list[int]:
    return [sum(steps[:n]) for n in range(len(steps))]


@given(steps)
def test_frame_k_shows_the_picture_on_display_after_k_periods(steps: list[int]) -> None:
    times, end = at_times(steps), sum(steps)
    assert frames(times, end) == (on_display(times, end), [])


@given(st.data())
def test_a_few_wrong_times_drop_their_pictures_and_nothing_else(data: st.DataObject) -> None:
    count = data.draw(st.integers(12, 120))
    times = [n * TICKS.of_seconds(0.04) for n in range(count)]
    first = data.draw(st.integers(2, count - 2))
    run = data.draw(st.integers(1, min(16, count - first - 1)))
    seconds = st.one_of(st.floats(1, 40000), st.floats(-40000, -1))
    told = list(times)
    for n in range(first, first + run):
        told[n] += TICKS.of_seconds(data.draw(seconds))
    end = count * TICKS.of_seconds(0.04)
    kept = [n for n in range(count) if not first <= n < first + run]
    expected = [kept[i] for i in on_display([times[n] for n in kept], end)]
    what = f"{run} timestamps were" if run > 1 else "1 timestamp was"
    where = f"near second {(first - 1) * 0.04:.1f}"
    assert frames(told, end) == (expected, [f"{what} out of order {where}"])


@given(steps, steps, st.floats(12, 3000))
def test_a_pause_is_a_still_of_its_length(before: list[int], after: list[int], pause: float) -> None:
    steps = [*before, TICKS.of_seconds(pause), *after]
    times, end = at_times(steps), sum(steps)
    shown, warnings = frames(times, end)
    assert shown == on_display(times, end)
    assert warnings == [
        f"a gap without a new picture of {pause:.1f} s, near second {TICKS.to_seconds(sum(before)):.1f}"
    ]


@given(st.floats(0.7, 40000))
def test_a_recorder_that_starts_again_goes_on_within_a_period(seconds_back: float) -> None:
    step, back = TICKS.of_seconds(0.04), TICKS.of_seconds(seconds_back)
    before, after = [n * step for n in range(200)], [(200 + n) * step - back for n in range(200)]
    shown, warnings = frames([*before, *after], after[-1] + step)
    first = next(
        t for t in range(before[-1] + 1, before[-1] + TICKS.period + 1) if (t - after[0]) % TICKS.period == 0
    )
    times = [*before, *(t - after[0] + first for t in after)]
    assert shown == on_display(times, times[-1] + step)
    assert warnings == ["the timestamps start again near second 8.0, where the video goes on"]


def test_times_that_never_advance_lose_no_picture() -> None:
    shown, warnings = frames([0] * 100, 0)
    assert len(shown) >= 80
    assert sorted(set(shown)) == shown
    assert "start again" in warnings[0]


def test_of_two_pictures_at_one_time_the_second_is_shown() -> None:
    step = TICKS.period
    assert frames([0, step, step, 2 * step], 3 * step) == ([0, 2, 3], [])


def test_the_last_pictures_may_have_one_time_or_come_early() -> None:
    step = TICKS.period
    assert frames([0, step, step], 2 * step) == ([0, 2], [])
    shown, warnings = frames([0, step, 2 * step, 3 * step // 2], 5 * step // 2)
    assert (shown, warnings) == ([0, 1, 3], ["1 timestamp was out of order near second 0.2"])


def test_a_jump_that_nothing_confirms_is_a_gap_up_to_the_limit() -> None:
    step = TICKS.of_seconds(0.04)
    for seconds, still in ((500.0, 6250), (5000.0, 0)):
        times = [*(n * step for n in range(99)), 99 * step + TICKS.of_seconds(seconds)]
        shown, warnings = frames(times, times[-1] + step)
        assert len(shown) == 50 + still
        assert warnings == [
            f"a gap without a new picture of {seconds:.1f} s, near second 3.9"
            if still
            else "1 timestamp was out of order near second 3.9"
        ]


def test_a_wrong_first_time_is_not_the_start() -> None:
    step = TICKS.of_seconds(0.04)
    times = [TICKS.of_seconds(40.0), *(n * step for n in range(1, 100))]
    shown, warnings = frames(times, 100 * step)
    assert shown == [1, *range(2, 100, 2)]
    assert warnings == ["1 timestamp was out of order near second 0.0"]


def test_slides_are_stills_however_far_apart() -> None:
    times = [TICKS.of_seconds(1800.0) * n for n in range(40)]
    shown, warnings = frames(times, TICKS.of_seconds(1800.0 * 40))
    assert shown == [n for n in range(40) for _ in range(22500)]
    assert warnings == ["a gap without a new picture of 1800.0 s, near second 0.0"], "then it is the rule"


def test_a_still_beyond_the_limit_is_refused_unless_the_times_start_again_there() -> None:
    step = TICKS.of_seconds(0.04)
    times = [n * step + TICKS.of_seconds(5000.0) * (n >= 50) for n in range(100)]
    with pytest.raises(VideoLimitError, match=r"no new picture for 5000\.0 s near second 2\.0, the limit is"):
        frames(times, times[-1] + step)
    shown, warnings = frames(times, times[-1] + step, restarts=True)
    assert shown == list(range(0, 100, 2))
    assert warnings == ["the timestamps start again near second 2.0, where the video goes on"]
