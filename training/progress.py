"""Progress on stderr: transient bars, and lines that stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sfavivit.cli.options import err
from sfavivit.cli.progress import progress_bar
from sfavivit.utils.text import printable
from training.trainer import StepProgress


@contextmanager
def work_bar(name: str, total: int, *, shown: bool = True) -> Iterator[StepProgress]:
    """Show a bar while work is done, and at the end a line with its duration and last figures."""
    start = time.perf_counter()
    figures = ""
    with progress_bar(name, err) if shown else nullcontext(lambda *_: None) as update:

        def progress(done: int, loss: float | None = None, accuracy: float | None = None) -> None:
            nonlocal figures
            figures = "" if loss is None else f", loss {loss:.3f}, accuracy {accuracy:.1%}"
            update(done, total, f"{done}/{total}{figures}")

        yield progress
    if shown:
        say(f"{name}: {total} in {time.perf_counter() - start:.0f} s{figures}")


def say(line: str) -> None:
    """Print a line on stderr as it is."""
    err.print(printable(line), markup=False, soft_wrap=True)
