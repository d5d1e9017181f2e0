"""Machines that a job runs on: this one, or a Ray cluster, whose own messages stay off the terminal."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import ceil
from types import ModuleType
from typing import NamedTuple

from sfavivit.errors import ScoringError, UsageError
from sfavivit.extras import needs_extra
from sfavivit.utils.cpus import available_cpus
from sfavivit.utils.text import one_line

LOCAL = "local"
AUTO = "auto"
OBJECT_STORE_BYTES = 256 << 20  # for a cluster of our own, which holds only items and rows in transit
_CONNECT_SECONDS = 10


class Machines(NamedTuple):
    """Resources to share out: all CPU cores, those of the largest machine, and all GPUs."""

    cores: int
    largest_cores: int
    gpus: int = 0

    @property
    def default_workers(self) -> int:
        """Number of workers to start: one for every two cores."""
        return max(1, self.cores // 2)

    def cores_each(self, workers: int) -> int:
        """Return an equal share of the cores for each worker, each on a single machine."""
        return max(1, min(self.largest_cores, self.cores // workers))

    def gpus_each(self, workers: int) -> float:
        """Return one GPU for each worker, or an equal share of one when there are more workers than GPUs."""
        return 1 / ceil(workers / self.gpus) if self.gpus else 0.0


def this_machine() -> Machines:
    """Return the cores that this process may use. Its GPUs are not shared out: all workers see them."""
    cores = available_cpus()
    return Machines(cores, cores)


def ray_cluster(address: str, *, debug: bool = False) -> Machines:
    """Connect this process to a Ray cluster; ``ray.shutdown`` disconnects it, or ends a cluster started here.

    Args:
        address: ``local`` (start one here), ``auto`` (join the running one) or ``HOST:PORT``.
        debug: let Ray's messages reach the terminal.

    Raises:
        UsageError: the address has another form; Ray is not installed.
        ScoringError: there is no such cluster, or it cannot be used.
    """
    if address not in (LOCAL, AUTO):
        _check_reachable(address)
    with nullcontext() if debug else _silent_stderr():
        return _connected(_import_ray(debug), address, debug)


def _connected(ray: ModuleType, address: str, debug: bool) -> Machines:
    own = {
        "num_cpus": available_cpus(),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    try:
        ray.init(
            address,
            log_to_driver=debug,
            logging_level=logging.INFO if debug else logging.CRITICAL,
            **(own if address == LOCAL else {}),
        )
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [int(machine.get("CPU", 0)) for machine in resources]
        return Machines(sum(cores), max(cores), int(sum(machine.get("GPU", 0) for machine in resources)))
    except Exception as error:  # Ray raises many kinds, with no base in common
        raise ScoringError(
            f"no Ray cluster at {address!r}: {one_line(error)}; if it wants a token, set RAY_AUTH_MODE=token"
        ) from error


def _check_reachable(address: str) -> None:
    """Check that the address accepts connections: otherwise Ray itself would end this process."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise UsageError(
            f"Ray cluster {address!r} must be {LOCAL}, {AUTO} or the HOST:PORT of its head (ray://, "
            "Ray Client, cannot stream)"
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ScoringError(
            f"no Ray cluster at {address!r}: {error}; start one with `ray start --head`"
        ) from None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard standard error, which Ray's C++ code writes to when it starts."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:  # noqa: PTH123 - a name, not a path
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _import_ray(debug: bool) -> ModuleType:
    """Import Ray with its settings in the environment; those that the user has set stay as they are."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Otherwise a thread of Ray Data that outlives ray.shutdown would start a cluster of its own.
        "RAY_ENABLE_AUTO_CONNECT": "0",
    }
    if not debug:
        # Messages of the cluster reach standard output whatever log_to_driver says, unless they are skipped.
        settings |= {"RAY_DEDUP_LOGS_SKIP_REGEX": "(?s).*", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    with needs_extra("--ray", "ray"):
        import ray  # noqa: PLC0415 - heavy, and an extra
        import ray.data  # noqa: PLC0415
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
    return ray
