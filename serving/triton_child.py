"""Become another program that dies with its parent: ``python -I -S triton_child.py PARENT PROGRAM ARG...``.

Between fork and exec a process of many threads may run next to nothing safely; this runs after the exec. The
program must lead its process group. A guard that is left behind in it kills all of the group once the program
is gone: Triton's Python stubs end by themselves, but one that waits for Triton with the interpreter's lock
held never does.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_SECONDS = 0.5


def guard(program: int) -> None:
    """Never returns."""
    for standard in (1, 2):
        os.close(standard)  # whoever reads the program's log is to see its end
    while os.getppid() == program:
        time.sleep(LOOK_SECONDS)
    time.sleep(LOOK_SECONDS)
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
