"""Wrapper that runs a program so that it dies with its parent: ``triton_child.py PARENT_PID PROGRAM ARG...``.

It is a program of its own because a process of many threads may run next to nothing safely between fork and
exec. It must lead its process group, and leaves a guard in it that kills the group once the program is gone:
Triton's Python stubs end by themselves, but one that waits for Triton with the interpreter's lock held never
does.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_SECONDS = 0.5


def guard(program_pid: int) -> None:
    """Wait for the end of the program, then kill the process group, this process included."""
    for descriptor in (1, 2):
        os.close(descriptor)  # or the reader of the program's log would not see its end
    while os.getppid() == program_pid:
        time.sleep(POLL_SECONDS)
    time.sleep(POLL_SECONDS)  # for stubs that end by themselves
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) or os.getppid() != parent:
        sys.exit("the parent process is gone")
    own = os.getpid()
    if os.getpgrp() != own:
        sys.exit("the program must lead its process group")
    if os.fork() == 0:
        guard(own)
    os.execv(program[0], program)  # noqa: S606 - the program is the caller's choice
