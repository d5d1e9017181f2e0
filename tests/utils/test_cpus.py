"""Tests of the number of CPUs: affinity, OMP_NUM_THREADS, and quotas as written files and for real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfavivit import Repository
from sfavivit.engines.torch import TorchEngine
from sfavivit.utils.cpus import available_cpus
from training.hardware import make_fabric

ROOT = Path(__file__).parents[2]
CPUS = 64
V1_POINT, V2_POINT = "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"
OTHERS = [
    "24 1 0:22 / /sys rw - sysfs sysfs rw",
    "33 24 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
    "34 24 0:31 / /media/caf\udce9\x85 rw - vfat /dev/sdb rw",
]


@pytest.fixture(autouse=True)
def _many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CPUS)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def system(root: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Write the proc and sys of a process below ``root``, and return it."""
    texts = {"/proc/self/cgroup": cgroup, "/proc/self/mountinfo": "\n".join([*OTHERS, *mounts]), **files}
    for name, text in texts.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(f"{text}\n"))
    return root


def v1_mount(top: str = "/", point: str = V1_POINT) -> str:
    return f"30 24 0:27 {top} {point} rw,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct"


def v2_mount(top: str = "/", point: str = V2_POINT) -> str:
    return f"31 24 0:28 {top} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


def v2(folder: str, quota: int | str, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.max": f"{quota} {period}"}


V1_GROUPS = "5:cpuset:/\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}"
POD = "/kubepods/pod1"
CASES = {
    "v1": (V1_GROUPS, [v1_mount()], "/a", v1(f"{V1_POINT}/a", 200_000), 2),
    "v1 without quota": (V1_GROUPS, [v1_mount()], "/a", v1(f"{V1_POINT}/a", -1), CPUS),
    "v2": ("0::{path}", [v2_mount()], "/a", v2(f"{V2_POINT}/a", 200_000), 2),
    "v2 without quota": ("0::{path}", [v2_mount()], "/a", v2(f"{V2_POINT}/a", "max"), CPUS),
    "v2 rounds up": ("0::{path}", [v2_mount()], "/a", v2(f"{V2_POINT}/a", 150_001, 50_000), 4),
    "v2 part of a CPU": ("0::{path}", [v2_mount()], "/a", v2(f"{V2_POINT}/a", 1_000), 1),
    "a limit above": (
        "0::{path}",
        [v2_mount()],
        f"{POD}/c1",
        v2(f"{V2_POINT}{POD}/c1", 800_000)
        | v2(f"{V2_POINT}{POD}", 300_000)
        | v2(f"{V2_POINT}/kubepods", "max"),
        3,
    ),
    "a limit below": (
        V1_GROUPS,
        [v1_mount()],
        f"{POD}/c1",
        v1(f"{V1_POINT}{POD}/c1", 100_000) | v1(f"{V1_POINT}{POD}", 300_000),
        1,
    ),
    "a sibling's limit": ("0::{path}", [v2_mount()], "/a", v2(f"{V2_POINT}/b", 100_000), CPUS),
    "hybrid: the controller is in v1": (
        V1_GROUPS + "\n0::{path}",
        [v1_mount(), v2_mount(point="/sys/fs/cgroup/unified")],
        "/a",
        v1(f"{V1_POINT}/a", 500_000),
        5,
    ),
    "container that sees only its own group": (
        V1_GROUPS,
        [v1_mount("/docker/c1")],
        "/docker/c1",
        v1(V1_POINT, 200_000),
        2,
    ),
    "group in such a container": (
        V1_GROUPS,
        [v1_mount("/docker/c1")],
        "/docker/c1/worker",
        v1(V1_POINT, 700_000) | v1(f"{V1_POINT}/worker", 600_000),
        6,
    ),
    "cgroup namespace": ("0::{path}", [v2_mount()], "/", v2(V2_POINT, 300_000), 3),
    "path not below the mount's root": (
        V1_GROUPS,
        [v1_mount("/docker/c1")],
        "/kubepods/other",
        v1(V1_POINT, 200_000) | v1(f"{V1_POINT}/kubepods/other", 100_000),
        2,
    ),
    "path outside of the namespace": ("0::{path}", [v2_mount()], "/../b", v2(V2_POINT, 300_000), 3),
    "the mount that has the group": (
        "0::{path}",
        [v2_mount("/other", "/mnt/other"), v2_mount()],
        "/a",
        v2("/mnt/other", 100_000) | v2(f"{V2_POINT}/a", 400_000),
        4,
    ),
    "escaped mount point": ("0::{path}", [v2_mount(point=r"/c\040g")], "/a", v2("/c g/a", 400_000), 4),
    "removed group": ("0::{path}", [v2_mount()], "/a/b (deleted)", v2(f"{V2_POINT}/a", 400_000), 4),
    "not mounted": ("0::{path}", [], "/a", {}, CPUS),
    "empty files": ("0::{path}", [v2_mount()], "/a", {f"{V2_POINT}/a/cpu.max": ""}, CPUS),
}


@pytest.mark.parametrize("case", CASES)
def test_a_quota_binds(case: str, tmp_path: Path) -> None:
    groups, mounts, path, files, expected = CASES[case]
    assert available_cpus(system(tmp_path, groups.format(path=path), mounts, files)) == expected


def test_without_proc_the_affinity_is_all(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == CPUS


@given(
    quotas=st.lists(st.none() | st.integers(1_000, 10_000_000), min_size=1, max_size=5), is_v2=st.booleans()
)
def test_the_least_quota_of_a_chain_of_groups_binds(
    tmp_path_factory: pytest.TempPathFactory, quotas: list[int | None], is_v2: bool
) -> None:
    point = V2_POINT if is_v2 else V1_POINT
    path, files = "", dict[str, str]()
    for level, quota in enumerate(quotas):
        path += f"/g{level}"
        files |= v2(point + path, quota or "max") if is_v2 else v1(point + path, quota or -1)
    groups = ("0::{path}" if is_v2 else V1_GROUPS).format(path=path)
    mount = v2_mount() if is_v2 else v1_mount()
    root = system(tmp_path_factory.mktemp("system"), groups, [mount], files)
    assert available_cpus(root) == min(CPUS, *(ceil(quota / 100_000) for quota in quotas if quota), CPUS)


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), (" 3 , 2", 3), ("003", 3), ("100", CPUS), ("", CPUS)]
)
def test_omp_num_threads_binds(
    value: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert available_cpus(tmp_path) == expected


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", "٣", ",2", "9" * 5000])
def test_another_omp_num_threads_is_ignored_aloud(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.warns(UserWarning, match="OMP_NUM_THREADS=.* is ignored; it must be a whole number from 1"):
        assert available_cpus(tmp_path) == CPUS


def test_a_real_quota_binds(one_cpu: Sequence[str]) -> None:
    """A process in the group counts one CPU, although its affinity has more."""
    program = "from sfavivit.utils.cpus import available_cpus; print(available_cpus())"
    command = [*one_cpu, sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    "start",
    [lambda folder: TorchEngine(Repository.load(folder)), lambda _: make_fabric()],
    ids=["engine", "training"],
)
def test_pytorch_uses_as_many_threads(
    start: Callable[[Path], Any], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        start(repository)
        assert torch.get_num_threads() == available_cpus() == 3
    finally:
        torch.set_num_threads(before)


def test_no_other_file_counts_cpus() -> None:
    """Copies beside the Triton shim are compared with the original where the configs are."""
    folders = ("sfavivit", "export", "serving", "client", "training", "benchmarks", "examples")
    files = (file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    counting = {
        str(file.relative_to(ROOT)) for file in files if re.search("getaffinity|cpu_count", file.read_text())
    }
    assert counting == {"sfavivit/utils/cpus.py"}
