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

_LOG_READ_BYTES = 1 << 16  # what a pipe holds
_MAX_PIPE_BYTES = 1 << 20  # the most an unprivileged process may ask for
_EXIT_SECONDS = 10.0  # from the end of the output to the exit


class StalledError(Exception):
    """The decoder gave no output for ``stall_seconds``."""


class DecoderProcess:
    """A confined child whose output is read into buffers while its log and its index are drained.

    ``command`` gives the command line for the number of a descriptor, to which the child writes its index; it
    must come from :func:`sfavivit.video.sandbox.confined_command`. Descriptor ``stdin`` becomes descriptor 0.
    ``on_log`` is called with what the child writes to descriptor 2, ``on_index`` with what it writes to the
    index; they return whether that is progress. Output may run at most about ``pipe_bytes`` ahead of the
    reader.

    ``kill`` may be called from any thread at any time, the other methods from one thread at a time.

    Raises:
        DecodeError: the child cannot be started.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        stdin: int,
        environment: Mapping[str, str],
        on_log: Callable[[bytes], bool],
        on_index: Callable[[bytes], bool],
        stall_seconds: float,
        pipe_bytes: int,
    ) -> None:
        self._owner = os.getpid()
        self._stall_seconds = stall_seconds
        self._note_progress()
        index, written_index = os.pipe2(os.O_CLOEXEC)
        try:
            self._child = _start(command(written_index), stdin, environment, written_index)
        except BaseException:
            os.close(index)
            raise
        finally:
            os.close(written_index)
        self._kill_lock = threading.RLock()  # a finalizer may kill in the middle of anything
        self._selector = selectors.DefaultSelector()
        assert self._child.stdout is not None and self._child.stderr is not None
        self._output = self._child.stdout.fileno()
        self._pipes = (self._child.stdout, self._child.stderr, os.fdopen(index, "rb", buffering=0))
        self._side = {self._child.stderr.fileno(): on_log, index: on_index}
        for descriptor in (self._output, *self._side):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, min(pipe_bytes, _MAX_PIPE_BYTES))

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` (bytes) and return the number of bytes: fewer than asked for only at the end.

        What the child wrote to its log and its index before these bytes has then been taken.

        Raises:
            StalledError: neither output nor progress for ``stall_seconds``.
        """
        filled = 0
        self._note_progress()
        while filled < len(buffer) and self._output in self._selector.get_map():
            if self._output in self._wait():
                count = os.readv(self._output, [buffer[filled:]])
                if not count:
                    self._selector.unregister(self._output)
                filled += count
                self._note_progress()
        self._drain({key.fd for key, _ in self._selector.select(0)})  # a read empties a pipe
        return filled

    def finish(self) -> int:
        """Drain the log after the end of the output; return the exit status, negative for a signal.

        Raises:
            StalledError: the child does not exit.
        """
        self._note_progress()
        while self._selector.get_map():
            if self._output in self._wait() and not os.read(self._output, _LOG_READ_BYTES):
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
        for pipe in self._pipes:
            pipe.close()

    def _note_progress(self) -> None:
        self._deadline = time.monotonic() + self._stall_seconds

    def _wait(self) -> set[int]:
        """Wait for the child to write something, take what is not output, and return what is ready."""
        events = self._selector.select(max(0.0, self._deadline - time.monotonic()))
        ready = {key.fd for key, _ in events}
        self._drain(ready)
        if self._output not in ready and time.monotonic() >= self._deadline:
            raise StalledError
        return ready

    def _drain(self, ready: set[int]) -> None:
        """Take what is ready of the log and the index."""
        for descriptor in ready - {self._output}:
            data = os.read(descriptor, _LOG_READ_BYTES)
            if not data:
                self._selector.unregister(descriptor)
            elif self._side[descriptor](data):
                self._note_progress()


def _new_spawner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sfavivit-spawn")


# The kernel sends the death signal when the *thread* that started a child ends. So one thread, which lives as
# long as the process, starts them all: a reader may outlive the thread that opened it.
_spawner = _new_spawner()


def _after_fork() -> None:
    global _spawner  # noqa: PLW0603 - a fork has the object but not its thread
    _spawner = _new_spawner()


os.register_at_fork(after_in_child=_after_fork)


def _start(
    command: Sequence[str], stdin: int, environment: Mapping[str, str], inherited: int
) -> subprocess.Popen[bytes]:
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
            pass_fds=(inherited,),
        )

    try:
        return _spawner.submit(start).result()
    except OSError as error:
        raise DecodeError(f"the decoder cannot be started: {error}") from error
