"""A video service in a process of its own, for as long as it is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from sfavivit.errors import ServiceError


@contextmanager
def service_process(repository: Path) -> Iterator[str]:
    """``python -m serving`` on a free port of loopback, ready to answer; yields its address.

    Raises:
        ServiceError: it does not start; the message ends with its own.
    """
    options = ("--repository", str(repository), "--port", "0", "--metrics-port", "-1")
    command = [sys.executable, "-m", "serving", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            try:
                port = json.loads(line)["port"]
            except (ValueError, LookupError, TypeError):
                raise ServiceError(
                    f"the service did not start: {line.strip().removeprefix('error: ')}"
                ) from None
            # A log that nobody reads would stop the service when the pipe is full.
            Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
