"""The decoder as a supervised child process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from sfavivit.errors import DecodeError

_LOG_READ_BYTES = 1 << 16
_MAX_PIPE_BYTES = 1 << 20  # the most an unprivileged process may ask for
_EXIT_SECONDS = 10.0  # from the end of the output to the exit


class StalledError(Exception):
    """The decoder gave no output for ``stall_seconds``."""


class DecoderProcess:
    """A confined child whose output is read into buffers while its log is drained.

    ``command`` must come from :func:`sfavivit.video.sandbox.confined_command`; descriptor ``stdin`` becomes
    its descriptor 0. ``on_log`` is called with what it writes to descriptor 2. It may write at most about
    ``pipe_bytes`` ahead of the reader.

    ``kill`` may be called from any thread at any time, the other methods from one thread at a time.

    Raises:
        DecodeError: the child cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        environment: Mapping[str, str],
        on_log: Callable[[bytes], None],
        stall_seconds: float,
        pipe_bytes: int,
    ) -> None:
        self._owner = os.getpid()
        self._on_log = on_log
        self._stall_seconds = stall_seconds
        self._child = _start(command, stdin, environment)
        self._kill_lock = threading.RLock()  # a finalizer may kill in the middle of anything
        self._selector = selectors.DefaultSelector()
        assert self._child.stdout is not None and self._child.stderr is not None
        self._output, self._log = self._child.stdout.fileno(), self._child.stderr.fileno()
        for descriptor in (self._output, self._log):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, min(pipe_bytes, _MAX_PIPE_BYTES))

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` (bytes) and return the number of bytes: fewer than asked for only at the end.

        Raises:
            StalledError: no output for ``stall_seconds``. The log does not count: a file can make it endless.
        """
        filled = 0
        deadline = time.monotonic() + self._stall_seconds
        while filled < len(buffer) and self._output in self._selector.get_map():
            ready = self._wait(deadline)
            # The log first: messages that precede these frames are then known before the frames are used.
            if self._log in ready:
                self._drain_log()
            if self._output in ready:
                count = os.readv(self._output, [buffer[filled:]])
                if not count:
                    self._selector.unregister(self._output)
                filled += count
                deadline = time.monotonic() + self._stall_seconds
        return filled

    def finish(self) -> int:
        """Drain the log after the end of the output; return the exit status, negative for a signal.

        Raises:
            StalledError: the child does not exit.
        """
        deadline = time.monotonic() + self._stall_seconds
        while self._selector.get_map():
            for descriptor in self._wait(deadline):
                if descriptor == self._log:
                    self._drain_log()
                elif not os.read(self._output, _LOG_READ_BYTES):
                    self._selector.unregister(self._output)
        try:
            return self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise StalledError from None

    def kill(self) -> None:
        """Kill the child's process group, if it still runs, and return at once."""
        with self._kill_lock:
            # A fork of this process inherits the object, but not the child.
            if self._child.returncode is None and self._owner == os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the child, reap it and close the pipes. May be called again."""
        self.kill()
        self._child.wait()
        self._selector.close()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()

    def _wait(self, deadline: float) -> set[int]:
        events = self._selector.select(max(0.0, deadline - time.monotonic()))
        ready = {key.fd for key, _ in events}
        if self._output not in ready and time.monotonic() >= deadline:
            raise StalledError
        return ready

    def _drain_log(self) -> None:
        data = os.read(self._log, _LOG_READ_BYTES)
        if data:
            self._on_log(data)
        else:
            self._selector.unregister(self._log)


def _new_spawner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sfavivit-spawn")


# The kernel sends the death signal when the *thread* that started a child ends. So one thread, which lives as
# long as the process, starts them all: a reader may outlive the thread that opened it.
_spawner = _new_spawner()


def _after_fork() -> None:
    global _spawner  # noqa: PLW0603 - a fork has the object but not its thread
    _spawner = _new_spawner()


os.register_at_fork(after_in_child=_after_fork)


def _start(command: Sequence[str], stdin: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )

    try:
        return _spawner.submit(start).result()
    except OSError as error:
        raise DecodeError(f"the decoder cannot be started: {error}") from error
