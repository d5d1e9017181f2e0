"""Frames at a steady rate, from pictures whose times are irregular and may be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from sfavivit.errors import VideoLimitError
from sfavivit.video.timebase import FrameTicks

T = TypeVar("T")

# Steps up to this, or up to four of the step before, are a slow or uneven camera; longer ones are checked.
_MAX_STEP_SECONDS = 0.5
_MAX_STEP_RATIO = 4
# Pictures that must confirm a jump before it is believed. Fewer would take a few wrong times for a pause.
_CONFIRMING_PICTURES = 16
# A still picture of this length is worth a warning. Also what ffmpeg calls a discontinuity of MPEG-TS.
_GAP_SECONDS = 10.0


class Run(NamedTuple, Generic[T]):
    """``frame_count`` equal frames of one picture."""

    picture: T
    frame_count: int


@dataclass
class _Disorder:
    """Counted irregularities of one kind. ``largest_seconds`` and the second at which the first one lies."""

    count: int = 0
    first_second: float = 0.0
    largest_seconds: float = 0.0

    def note(self, second: float, seconds: float = 0.0, count: int = 1) -> None:
        if not self.count:
            self.first_second = max(second, 0.0)
        self.count += count
        self.largest_seconds = max(self.largest_seconds, seconds)


@dataclass
class Timeline(Generic[T]):
    """Turns pictures and their times, in the decoder's order, into frames at a steady rate.

    Frame k shows the picture on display k periods after ``origin`` (in ticks): the last one whose time has
    come, or the first of all. A picture ends when the next one begins, so ``add`` gives the frames of the
    picture before. Three kinds of times break that rule:

        out of order   a few times jump, ahead or back, and those after them go on from before: the pictures
                       with these times are dropped
        gap            times jump ahead and stay there: the picture before is a still of that length
        restart        times jump back and stay there (the recorder began again): the video goes on
                       after the last picture, at most a period later. So do the times of MPEG-TS that jump
                       ahead beyond the limit

    Which of them a jump is, the next pictures tell, so up to ``_CONFIRMING_PICTURES`` are held back. Without
    a jump none is. ``max_gap_seconds``: longest still; a longer one raises :class:`VideoLimitError`.
    ``times_may_restart``: the container's times may jump ahead without a gap (MPEG-TS, FLV).
    ``times_are_estimated``: some times are guesses (MPEG-PS), so a picture that is early by a few steps is
    nothing to tell.
    """

    ticks: FrameTicks
    origin: int
    max_gap_seconds: float
    times_may_restart: bool = False
    times_are_estimated: bool = False
    _held: list[tuple[int, T | None]] = field(default_factory=list)
    _on_display: T | None = None
    _outdated: bool = False  # the picture on display came without pixels, so the one before is shown
    _last: int | None = None  # time of the last picture that counts, restarts taken out
    _step: int = 0
    _accepted: int = 0
    _restart_offset: int = 0
    _next_frame: int = 0
    _out_of_order: _Disorder = field(default_factory=_Disorder)
    _gaps: _Disorder = field(default_factory=_Disorder)
    _restarts: _Disorder = field(default_factory=_Disorder)
    _lost: _Disorder = field(default_factory=_Disorder)

    def add(self, time: int, picture: T | None) -> list[Run[T]]:
        """Return the frames that are known with the next picture.

        Args:
            time: time of the picture in ticks, as the file gives it.
            picture: None for one that no frame needs; its time counts all the same.

        Raises:
            VideoLimitError: a still beyond the limit.
        """
        self._held.append((time, picture))
        if self._continues(time):
            *skipped, _ = self._held
            self._held.clear()
            self._skip(skipped)
            return self._accept(time, picture)
        return self._believe_jump() if len(self._held) > _CONFIRMING_PICTURES else []

    def end(self, time: int | None) -> list[Run[T]]:
        """Return the last frames. ``time``: end of the last picture in ticks; None if unknown."""
        runs = []
        if unlikely := self._held and self._last is not None and self._is_unlikely():
            self._skip(self._held)
            self._held = []
        while self._held:
            runs += self._believe_jump()
        if self._last is not None:
            end = time - self._restart_offset if time is not None and not unlikely else self._last
            end = end if end > self._last else self._last + max(1, self._step)
            self._check_gap(end)
            runs += self._advance(end)
        if self._on_display is not None and not self._next_frame:
            self._next_frame = 1
            runs.append(Run(self._on_display, 1))
        return runs

    def warnings(self) -> list[str]:
        """Return what was irregular so far, one sentence fragment for each kind."""
        found = []
        if n := self._out_of_order.count:
            what = f"{n} timestamps were out of order" if n > 1 else "1 timestamp was out of order"
            found.append(f"{what} near second {self._out_of_order.first_second:.1f}")
        if n := self._restarts.count:
            what = f"the timestamps start again {n} times, first" if n > 1 else "the timestamps start again"
            found.append(f"{what} near second {self._restarts.first_second:.1f}, where the video goes on")
        if n := self._gaps.count:
            what = f"{n} gaps without a new picture, the longest" if n > 1 else "a gap without a new picture"
            near = f"near second {self._gaps.first_second:.1f}"
            found.append(f"{what} of {self._gaps.largest_seconds:.1f} s, {'the first ' * (n > 1)}{near}")
        if n := self._lost.count:
            what = f"{n} pictures were lost, the first" if n > 1 else "a picture was lost"
            found.append(
                f"{what} near second {self._lost.first_second:.1f}, where the size or format changes"
            )
        return found

    def _continues(self, time: int) -> bool:
        """Return whether a time follows the last one that counts, as if the held ones were not there."""
        if self._last is None:
            return True
        step, held_before = time - self._restart_offset - self._last, len(self._held) - 1
        longest = max(self.ticks.of_seconds(_MAX_STEP_SECONDS), _MAX_STEP_RATIO * self._step)
        if not 0 < step <= longest + held_before * self._step:
            return False
        # After a jump ahead, only a time that lies before it takes it back.
        jumped_ahead = self._held[0][0] - self._restart_offset > self._last
        return not held_before or not jumped_ahead or time < self._held[0][0]

    def _is_unlikely(self) -> bool:
        """Return whether the held pictures, the last of all, are out of order rather than after a jump.

        All of them jump back, or their jump ahead is beyond the limit: too few have confirmed it.
        """
        times = [time - self._restart_offset - (self._last or 0) for time, _ in self._held]
        return max(times) <= 0 or self._seconds(max(times)) > self.max_gap_seconds

    def _skip(self, pictures: list[tuple[int, T | None]]) -> None:
        """Drop pictures that are out of order; of those at the present time or just before, show the last."""
        now = (self._last or 0) + self._restart_offset
        early = {time for time, _ in pictures if 0 <= now - time <= _MAX_STEP_RATIO * self._step}
        told = {now} | (early if self.times_are_estimated else set())
        if wrong := sum(time not in told for time, _ in pictures):
            self._out_of_order.note(self._seconds(self._last or 0), count=wrong)
        for time, picture in pictures:
            if time in early and picture is not None:
                self._on_display = picture

    def _believe_jump(self) -> list[Run[T]]:
        """Take the first held time for right, and look at the others again."""
        (time, picture), *rest = self._held
        self._held.clear()
        last = self._last or 0
        ahead = time - self._restart_offset - last
        if ahead < 0 <= time and self._accepted == 1:  # it was the very first time that was wrong
            self._out_of_order.note(0.0)
            self._last = self._on_display = None
        elif ahead <= 0 or (self.times_may_restart and self._seconds(ahead) > self.max_gap_seconds):
            self._restarts.note(self._seconds(last))
            # By whole periods, since the decoder dropped the pictures between the frames of the file's times.
            step = ahead % self.ticks.period or self.ticks.period
            self._restart_offset += ahead - step
        runs = self._accept(time, picture)
        for held in rest:
            runs += self.add(*held)
        return runs

    def _accept(self, time: int, picture: T | None) -> list[Run[T]]:
        time -= self._restart_offset
        runs = self._advance(time)
        if self._last is not None:
            self._check_gap(time)
            self._step = time - self._last
        self._last = time
        self._accepted += 1
        self._outdated = picture is None
        if picture is not None:
            self._on_display = picture
        return runs

    def _check_gap(self, time: int) -> None:
        """Note or refuse a still that ends at ``time``, and one before the first picture."""
        last = self._last or 0
        for start, end in [(0, last)] * (self._accepted == 1) + [(last, time)]:
            gap, second = self._seconds(end - start), self._seconds(start)
            if gap > self.max_gap_seconds:
                raise VideoLimitError(
                    f"no new picture for {gap:.1f} s near second {second:.1f}, the limit is "
                    f"{self.max_gap_seconds:g} s"
                )
            if gap >= _GAP_SECONDS and end - start > _MAX_STEP_RATIO * self._step:
                self._gaps.note(second, gap)

    def _advance(self, time: int) -> list[Run[T]]:
        """Return the frames before ``time`` that are still missing."""
        count = self.ticks.frames_before(time - self.origin) - self._next_frame
        if self._on_display is None or count <= 0:
            return []
        if self._outdated:
            self._lost.note(self._seconds(self._last or 0))
        self._next_frame += count
        return [Run(self._on_display, count)]

    def _seconds(self, ticks: int) -> float:
        return self.ticks.to_seconds(ticks)
