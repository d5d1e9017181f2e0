"""A video service in a process of its own, for the time that it is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil

from sfavivit.errors import ServiceError


@dataclass(frozen=True)
class ServiceProcess:
    """A running service, at ``address`` HOST:PORT on loopback."""

    process: psutil.Popen
    address: str


def service_process(*options: str | Path) -> AbstractContextManager[ServiceProcess]:
    """Run ``python -m serving`` with these options on a free port (see ``process_that_serves``)."""
    return process_that_serves("serving", *options, "--port", "0", "--metrics-port", "-1")


@contextmanager
def process_that_serves(module: str, *arguments: str | Path) -> Iterator[ServiceProcess]:
    """Run ``python -m module arguments``, from when it is ready to answer until it is killed at the end.

    Raises:
        ServiceError: the service does not start; the message ends with its own.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with psutil.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            line = process.stderr.readline()
            try:
                port = json.loads(line)["port"]
            except (ValueError, LookupError, TypeError):
                raise ServiceError(
                    f"the service did not start: {line.strip().removeprefix('error: ')}"
                ) from None
            # An unread log would fill the pipe and stop the service.
            Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
            yield ServiceProcess(process, f"127.0.0.1:{port}")
        finally:
            process.kill()
