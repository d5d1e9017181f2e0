"""Peak memory of a section of the program."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


def reset_peaks() -> None:
    """Start a measurement. Where the system cannot reset the peak, it is that since the process began."""
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process since ``reset_peaks``."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def peak_cuda_bytes() -> int:
    """Return the peak memory of tensors on the current GPU since ``reset_peaks``; 0 without a GPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0
