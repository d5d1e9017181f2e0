"""Limits on the cost of decoding one video."""

from __future__ import annotations

from dataclasses import dataclass

from sfavivit.errors import UsageError

_MIN_MEMORY_BYTES = 512 << 20  # the address space that ffmpeg maps to start, and some


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of decoding one video; :class:`VideoLimitError` beyond any of them.

    ``stall_seconds``: wall time without a picture while one is waited for. ``pixels`` of one picture.
    ``duration_seconds`` of the video, by its header or, failing that, by its frames. ``gap_seconds``: video
    time without a new picture, as in a recording that was paused. ``memory_bytes``: address space of the
    decoder.

    Raises:
        UsageError: a limit that is not positive, or less memory than the decoder needs to start.
    """

    stall_seconds: float = 30.0
    pixels: int = 8192 * 4320
    duration_seconds: float = 12 * 3600.0
    gap_seconds: float = 3600.0
    memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"limit {name} must be more than 0, got {value}")
        if self.memory_bytes < _MIN_MEMORY_BYTES:
            raise UsageError(
                f"limit memory_bytes must be at least {_MIN_MEMORY_BYTES}, got {self.memory_bytes}"
            )


DEFAULT_LIMITS = Limits()
