"""What a job can run on: this machine, or a Ray cluster, whose own words stay off the terminal."""

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

from sfavivit.cli.run import DEBUG_VARIABLE
from sfavivit.errors import ScoringError, UsageError

LOCAL = "local"
AUTO = "auto"
# Of a cluster of our own; rows and items on their way are all there is to hold.
OBJECT_STORE_BYTES = 256 << 20
_CONNECT_SECONDS = 10


class Machines(NamedTuple):
    """What there is to share: CPU cores in all, those of the largest machine, and GPUs in all."""

    cores: int
    largest_cores: int
    gpus: int = 0

    def cores_each(self, workers: int) -> int:
        """An equal share for each worker, of a single machine."""
        return max(1, min(self.largest_cores, self.cores // workers))

    def gpus_each(self, workers: int) -> float:
        """A GPU of its own for each worker, or an equal share of one when there are more workers."""
        return 1 / ceil(workers / self.gpus) if self.gpus else 0.0


def this_machine() -> Machines:
    """The cores that this process may use. Its GPUs are not shared out: all workers see them."""
    cores = len(os.sched_getaffinity(0))
    return Machines(cores, cores)


def ray_cluster(address: str) -> Machines:
    """Connect this process to a cluster: ``local`` (one of its own, here), ``auto`` or ``HOST:PORT``.

    ``ray.shutdown`` ends the connection, and a cluster of its own.

    Raises:
        UsageError: another form of address; Ray is not installed.
        ScoringError: there is no cluster, or it cannot be used.
    """
    if address not in (LOCAL, AUTO):
        _check_reachable(address)
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    with nullcontext() if debug else _silent_stderr():
        return _connected(_import_ray(debug), address, debug)


def _connected(ray: ModuleType, address: str, debug: bool) -> Machines:
    own = {
        "num_cpus": len(os.sched_getaffinity(0)),
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
        return _machines(ray)
    except Exception as error:  # Ray raises many kinds, with no base in common
        reason = " ".join(str(error).split())
        raise ScoringError(
            f"no Ray cluster at {address!r}: {reason:.300}; if it wants a token, set RAY_AUTH_MODE=token"
        ) from error


def _machines(ray: ModuleType) -> Machines:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(resources.get("CPU", 0)) for resources in machines]
    return Machines(sum(cores), max(cores), int(sum(resources.get("GPU", 0) for resources in machines)))


def _check_reachable(address: str) -> None:
    """See that somebody listens there: Ray itself would end this process when nobody does."""
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
    """For what Ray's C++ says when it starts."""
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
    """Ray reads these settings when it is imported. What the user has set stays as it is."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Or a thread of Ray Data that is still there after ray.shutdown would start a cluster of its own.
        "RAY_ENABLE_AUTO_CONNECT": "0",
    }
    if not debug:
        # Messages of the cluster go to standard output whatever log_to_driver says, unless they are skipped.
        settings |= {"RAY_DEDUP_LOGS_SKIP_REGEX": "(?s).*", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - heavy, and an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"--ray needs {error.name}: pip install 'sfavivit[ray]'") from None
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
    return ray
