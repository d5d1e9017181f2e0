"""A connection to a Ray cluster, whose own words stay off the terminal."""

from __future__ import annotations

import logging
import os
import socket
from math import ceil
from types import ModuleType
from typing import NamedTuple

from sfavivit.app import DEBUG_VARIABLE
from sfavivit.errors import ScoringError, UsageError

LOCAL = "local"
AUTO = "auto"
# Of a cluster of our own; rows and items on their way are all there is to hold.
OBJECT_STORE_BYTES = 256 << 20
_CONNECT_SECONDS = 10


class Cluster(NamedTuple):
    """What there is to share: CPU cores in all, those of the largest machine, and GPUs in all."""

    cores: int
    machine_cores: int
    gpus: int

    def gpus_each(self, workers: int) -> float:
        """A GPU of its own for each worker, or an equal share of one when there are more workers."""
        return 1 / ceil(workers / self.gpus) if self.gpus else 0


def connect(address: str) -> Cluster:
    """Connect this process to a cluster: ``local`` (one of its own, here), ``auto`` or ``HOST:PORT``.

    ``ray.shutdown`` ends the connection, and a cluster of its own.

    Raises:
        UsageError: another form of address; Ray is not installed.
        ScoringError: there is no cluster, or it cannot be used.
    """
    if address not in (LOCAL, AUTO):
        _check_reachable(address)
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    ray = _import_ray(debug)
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
        return _cluster(ray)
    except Exception as error:  # Ray raises many kinds, with no base in common
        reason = " ".join(str(error).split())
        raise ScoringError(f"no Ray cluster at {address!r}: {reason:.300}") from error


def _cluster(ray: ModuleType) -> Cluster:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(resources.get("CPU", 0)) for resources in machines]
    return Cluster(sum(cores), max(cores), int(sum(resources.get("GPU", 0) for resources in machines)))


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


def _import_ray(debug: bool) -> ModuleType:
    """Ray reads these settings when it is imported. What the user has set stays as it is."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
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
