"""Orderly end of a job on Ctrl-C or SIGTERM: the rows that have come are written first."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Context in which the first signal is only noted in ``number``; a second one ends the process.

    A second one loses only rows that are in no Parquet part yet, since parts are written atomically. No
    exception is raised: it could come between the renaming of a part and the note that it is written.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether a signal has come, so that the job should stop."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """Exit code as shells report it for a signal; 0 when there was none."""
        return 128 + self.number if self.number else 0

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
