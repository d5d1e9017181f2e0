"""Launcher of the Triton Inference Server on a model repository.

Triton polls the repository (model control ``poll``), so a version that is exported or rolled back is served
without a restart; ``export`` exchanges each directory in one step, so Triton never sees half of one. The
alternative, ``explicit``, would leave the load call open to every client, and that call accepts files: with
the Python backend, anyone's code.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from serving import triton_child
from serving.triton_install import server_variables, triton_root
from sfavivit.errors import EngineError, RepositoryError, UsageError
from sfavivit.repository.manifest import SPATIAL_MODEL, Repository, plan_file, temporal_model

START_TIMEOUT_SECONDS = 120.0
UNLOAD_TIMEOUT_SECONDS = 5
KEPT_LOG_LINES = 200
# I1123 16:07:11.611405 14026 model_lifecycle.cc:472] "loading: sfavivit_default:1"
LOG_LINE = re.compile(r'([IWEF])\d{4} (\d\d:\d\d:\d\d)\.\d+ \d+ [\w.]+:\d+\] ?"?(.*?)"?')
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
START_FAILURE = re.compile(r"(?:error: |failed to start ).*[^\s\"]")
LOAD_FAILURE = re.compile(r"failed to load '([\w-]+)' version (\d+): (.*)")


@dataclass(frozen=True)
class TritonPorts:
    """Ports of Triton's three services; 0 picks a free one."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0


class TritonServer:
    """A supervised ``tritonserver`` process: ready when entered as a context, gone when left.

    It dies with the *thread* that starts it (prctl(2)), so start it from one that lives as long as it should.

    Args:
        repository: folder of a model repository for Triton's Python backend.
        address: IPv4 address to listen on.
        ports: ports to listen on.
        log: text stream that gets Triton's log, one event a line.
        poll_seconds: whole seconds between looks for new versions in the repository.
        exit_seconds: whole seconds that requests in flight get when it stops; 0 kills it at once.

    Raises:
        RepositoryError: the repository is damaged or for another backend.
        UsageError: a port cannot be used.
        EngineError: Triton cannot be installed or does not start, or a model does not load; the message is
            Triton's.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        address: str = "127.0.0.1",
        ports: TritonPorts | None = None,
        log: IO[str] | None = None,
        poll_seconds: int = 2,
        exit_seconds: int = 10,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.address = address
        self.ports = ports or TritonPorts()
        self.process: subprocess.Popen[str] | None = None
        self._log = log
        self._poll_seconds = poll_seconds
        self._exit_seconds = exit_seconds
        self._id = f"sfavivit-{uuid4().hex}"
        self._lines: deque[str] = deque(maxlen=KEPT_LOG_LINES)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the server as ``Recognizer.load`` takes it."""
        return f"triton://{_connectable(self.address)}:{self.ports.grpc}"

    def start(self) -> None:
        """Start the server and return when every model is ready. May be called again after ``stop``."""
        self.verify()
        root = triton_root(self._log)
        self.ports = _take_ports(self.address, self.ports)
        self._lines.clear()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", triton_child.__file__, str(os.getpid()), *self._command(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=server_variables(root),
            start_new_session=True,  # a terminal's Ctrl-C is for the launcher
        )
        self._reader = Thread(target=self._relay, args=(self.process.stdout,), name="triton-log", daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._ready():
            if self.process.poll() is not None:
                raise EngineError(self._failure_reason())
            if time.monotonic() > deadline:
                raise EngineError(f"{self._failure_reason()} (after {START_TIMEOUT_SECONDS:g} s)")
            time.sleep(0.05)

    def verify(self) -> None:
        """Check the repository's digests, and that this Triton has the backend of its models.

        Raises:
            RepositoryError: the repository is damaged or for another backend.
        """
        manifest = Repository.load(self.repository).manifest
        served = {temporal_model(head): entry.version for head, entry in manifest.heads.items()}
        served[SPATIAL_MODEL] = manifest.spatial.version
        has_plans = any(plan_file(*model) in manifest.plans for model in served.items())
        if has_plans or manifest.backend != "python":
            backend = "tensorrt" if has_plans else manifest.backend
            raise RepositoryError(
                f"{self.repository} is for Triton's {backend} backend, which nvidia-pytriton has not; "
                "start NVIDIA's container on it (docs/serving.md), or export with --backend python"
            )

    def wait(self, timeout_seconds: float) -> None:
        """Wait until the timeout, and raise ``EngineError`` when the server ends before it."""
        if self.process is None:
            raise EngineError("Triton has not been started")
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_seconds)
            raise EngineError(self._failure_reason())

    def stop(self) -> None:
        """Stop the server: requests in flight get ``exit_seconds`` to finish, then everything is killed."""
        if self.process is None:
            return
        if self._exit_seconds and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self._exit_seconds + UNLOAD_TIMEOUT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with Python stubs that did not end by themselves
        self.process.wait()
        self._reader.join()
        self.process = None
        for region in Path("/dev/shm").glob(f"{self._id}*"):  # noqa: S108 - where POSIX shared memory is
            region.unlink(missing_ok=True)

    def _command(self, root: Path) -> list[str]:
        command = [str(root / "bin" / "tritonserver"), f"--id={self._id}"]
        for service in ("grpc", "http", "metrics"):
            command += [
                f"--{service}-address={self.address}",
                f"--{service}-port={getattr(self.ports, service)}",
            ]
        return [
            *command,
            f"--model-repository={self.repository}",
            f"--backend-directory={root / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._id}",
            "--model-control-mode=poll",
            f"--repository-poll-secs={self._poll_seconds}",
            "--disable-auto-complete-config",  # the configs are complete; completing starts each stub twice
            f"--exit-timeout-secs={self._exit_seconds}",
        ]

    def _relay(self, stream: IO[str]) -> None:
        for raw in stream:
            line = raw.rstrip()
            self._lines.append(line)
            match = LOG_LINE.fullmatch(line)
            text = f"{match[2]} {LEVELS[match[1]]}: {match[3]}" if match and match[3] else line
            if self._log and line and not (match and not match[3]):  # an empty message heads a table
                with suppress(OSError):  # a full disk or a reader that left; unread, Triton's pipe would fill
                    print(text, file=self._log, flush=True)
        stream.close()

    def _ready(self) -> bool:
        """Return whether this server, and not another on its port, answers that all models are ready."""
        connection = http.client.HTTPConnection(_connectable(self.address), self.ports.http, timeout=1)
        try:
            connection.request("GET", "/v2")
            is_ours = json.loads(connection.getresponse().read()).get("name") == self._id
            connection.request("GET", "/v2/health/ready")
            return is_ours and connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def _failure_reason(self) -> str:
        """Return the reason in Triton's log why it ended or is not ready, in one line."""
        if self.process and self.process.poll() is not None:
            self._reader.join()
        lines = [line for line in list(self._lines) if line]  # a copy: the reader may still add lines
        for line in lines:
            if failure := LOAD_FAILURE.search(line):
                reason = failure[3].rstrip('"').partition("\\n\\n")[0].replace("\\n", " ")
                return f"Triton cannot load model {failure[1]!r} version {failure[2]}: {reason}"
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            return f"Triton was killed by signal {-code}; start it again"
        failures = [failure[0] for line in lines if (failure := START_FAILURE.search(line))]
        event = "Triton did not get ready" if code is None else f"Triton ended with exit code {code}"
        return f"{event}: {[*lines[-1:], *failures][-1] if lines else 'its log is empty'}"


def _connectable(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1"}.get(address, address)  # noqa: S104 - compared, not bound


def _take_ports(address: str, ports: TritonPorts) -> TritonPorts:
    """Replace ports 0 by free ones, and raise ``UsageError`` in one line where a port cannot be bound."""
    taken = {}
    probes = []
    try:
        for service in ("grpc", "http", "metrics"):
            probe = socket.socket()
            probes.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = getattr(ports, service)
            try:
                probe.bind((address, port))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UsageError(
                    f"port {port} on {address} cannot be used: {reason}; choose another with --{service}-port"
                ) from error
            taken[service] = probe.getsockname()[1]
    finally:
        for probe in probes:
            probe.close()
    return TritonPorts(**taken)
