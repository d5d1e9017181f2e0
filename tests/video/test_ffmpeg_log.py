"""The parser of ffmpeg's log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sfavivit.video.ffmpeg_log import MAX_LINE_BYTES, FfmpegLog


@given(st.lists(st.binary(max_size=200), max_size=30), st.integers(0, 10))
def test_the_log_takes_anything_and_stays_small(parts: list[bytes], endless: int) -> None:
    log = FfmpegLog()
    for part in parts:
        log.feed(part + b"[error] " + part)
    for _ in range(endless):
        log.feed(b"x" * MAX_LINE_BYTES)
    assert len(log._rest) <= MAX_LINE_BYTES
    assert "\n" not in str(log.failure())
    assert len(str(log.failure())) < 300
