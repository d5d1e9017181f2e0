"""Number of CPUs for the threads of this process. ``export`` copies this file beside the Triton shim."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path, PurePath

# 32 31 0:29 /docker/1f0c /sys/fs/cgroup/cpu rw,relatime master:9 - cgroup cgroup rw,cpu,cpuacct
CGROUP_MOUNT = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)")


def available_cpus(root: Path = Path("/")) -> int:
    """Return how many threads this process can keep busy, at least 1: the least of all that binds it.

    - The CPUs of its affinity, which a cpuset sets, too (``taskset``, ``docker run --cpuset-cpus``).
    - The CPU time of its cgroup and of those above, rounded up (a Kubernetes limit, ``docker run --cpus``).
    - ``OMP_NUM_THREADS``, or the first number of its list. Another value is ignored with a ``UserWarning``,
      as OpenMP's own library ignores it.

    ``root`` holds the ``proc`` and ``sys`` to read cgroups from.
    """
    return min((len(os.sched_getaffinity(0)), *_quotas(root), *_openmp_threads()))


def _openmp_threads() -> Iterator[int]:
    text = os.environ.get("OMP_NUM_THREADS", "")
    first = text.partition(",")[0].strip()
    if re.fullmatch("0*[1-9][0-9]{0,8}", first):
        yield int(first)
    elif text:
        message = f"OMP_NUM_THREADS={text[:40]!r} is ignored; it must be a whole number from 1 on"
        warnings.warn(message, stacklevel=3)


def _quotas(root: Path) -> Iterator[int]:
    """Quotas, in CPUs rounded up, of this process's cgroups and of those above them that it can see."""
    try:
        groups, mounts = (
            os.fsdecode((root / "proc/self" / name).read_bytes()).strip().split("\n")
            for name in ("cgroup", "mountinfo")
        )
    except OSError:  # no /proc
        return
    # "4:cpu,cpuacct:/docker/1f0c" is of cgroup v1, "0::/docker/1f0c" of v2; a hybrid system has both.
    for _, controllers, path in (line.split(":", 2) for line in groups):
        if not controllers or "cpu" in controllers.split(","):
            for folder in _folders(mounts, PurePath(path), is_v2=not controllers):
                yield from _quota(root / folder)


def _folders(mounts: list[str], group: PurePath, *, is_v2: bool) -> Iterator[PurePath]:
    """Yield the folders, from ``/`` on, of a cgroup and of those above it, up to where they are mounted.

    A container may see only its own group, at the mount point, while ``group`` is the host's path or starts
    with ``/..`` (seen from another cgroup namespace). The mount point is the group to read then.
    """
    places = []
    for mount in mounts:
        match = CGROUP_MOUNT.fullmatch(mount)
        if match and (match[3] == "cgroup2" if is_v2 else "cpu" in match[4].split(",")):
            top, point = (PurePath(_unescaped(field)) for field in match.groups()[:2])
            is_below = ".." not in group.parts and group.is_relative_to(top)
            places.append((is_below, point, group.relative_to(top) if is_below else PurePath()))
    if places:
        _, point, folder = max(places, key=itemgetter(0))
        yield from (point.relative_to("/") / below for below in (folder, *folder.parents))


def _unescaped(field: str) -> str:
    """Decode the octal escapes of ``mountinfo``, which writes a blank as ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _quota(folder: Path) -> Iterator[int]:
    """Yield the quota of one cgroup if it has one: microseconds of CPU time in each period."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # "max", no such file, or a group just removed
        if (folder / "cpu.max").exists():  # cgroup v2: quota and period
            quota, period = map(int, (folder / "cpu.max").read_text().split())
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int((folder / name).read_text()) for name in names)
        if quota > 0:  # cgroup v1 says -1 where there is none
            yield -(-quota // period)
