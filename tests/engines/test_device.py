"""The NVIDIA driver, and a request for a device."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from sfavivit.engines.device import Device, Processor, driver_problem, start_on
from sfavivit.errors import EngineError

DRIVER = """
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "no CUDA-capable device is detected"; return 0; }
"""


@pytest.mark.parametrize(
    ("init", "count", "problem"),
    [
        (100, 0, "offers no GPU: no CUDA-capable device is detected (100)"),
        (0, 0, "offers no GPU"),
        (0, 2, None),
    ],
)
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: int, count: int, problem: str | None
) -> None:
    """A stand-in with the driver's own interface."""
    (tmp_path / "driver.c").write_text(DRIVER)
    library = str(tmp_path / "libcuda.so.1")
    macros = [f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run(["cc", "-shared", "-fPIC", *macros, "-o", library, tmp_path / "driver.c"], check=True)
    loaded = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded({"libcuda.so.1": library}[name]))
    found = driver_problem()
    assert found is None if problem is None else found and found.endswith(problem)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded(f"/nowhere/{name}"))
    assert "no NVIDIA driver (/nowhere/libcuda.so.1: cannot open" in str(driver_problem())


@pytest.mark.parametrize(
    ("device", "usable", "tried"),
    [
        ("cpu", ["cpu", "cuda"], ["cpu"]),
        ("cuda", ["cpu", "cuda"], ["cuda"]),
        ("cuda", ["cpu"], ["cuda"]),
        ("auto", ["cpu", "cuda"], ["cuda"]),
        ("auto", ["cpu"], ["cuda", "cpu"]),
        ("auto", [], ["cuda", "cpu"]),
    ],
)
def test_only_auto_falls_back(device: Device, usable: list[str], tried: list[str]) -> None:
    seen: list[Processor] = []

    def start(processor: Processor) -> str:
        seen.append(processor)
        if processor not in usable:
            raise EngineError(f"cannot use {processor}")
        return processor

    if tried[-1] in usable:
        assert start_on(device, start, gpu_package=False) == tried[-1]
    else:
        with pytest.raises(EngineError, match=f"cannot use {tried[-1]}"):
            start_on(device, start, gpu_package=False)
    assert seen == tried
