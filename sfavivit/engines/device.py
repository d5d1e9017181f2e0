"""Devices that engines compute on, and the choice between the CPU and CUDA."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Literal, TypeVar

from sfavivit.errors import EngineError

Processor = Literal["cpu", "cuda"]
Device = Literal["auto", "cpu", "cuda"]
"""Request of a user: ``cuda`` never falls back to the CPU; ``auto`` is CUDA where it works, else the CPU."""

log = logging.getLogger("sfavivit")
Started = TypeVar("Started")


def start_on(device: Device, start: Callable[[Processor], Started], *, gpu_package: bool) -> Started:
    """Return ``start("cpu")`` or ``start("cuda")``; a GPU that ``auto`` cannot use is logged with the reason.

    Args:
        device: the user's request.
        start: starts an engine on a processor, and raises ``EngineError`` where it does not work there.
        gpu_package: the installed package of the engine is one for GPUs.

    Raises:
        EngineError: as ``start``.
    """
    if device != "auto":
        return start(device)
    try:
        return start("cuda")
    except EngineError as error:
        reason = str(error)
    started = start("cpu")
    if gpu_package or driver_problem() is None:
        log.warning("%s; computing on the CPU (choose it with --device cpu)", reason)
    return started


def driver_problem() -> str | None:
    """Return why the NVIDIA driver offers no GPU to this process, or None where it offers one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        return f"the NVIDIA driver offers no GPU: {(text.value or b'no reason given').decode()} ({code})"
    return None if count.value else "the NVIDIA driver offers no GPU"
