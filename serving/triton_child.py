"""Become another program that dies with its parent: ``python -I -S triton_child.py PARENT PROGRAM ARG...``.

Between fork and exec a process of many threads may run next to nothing safely; this runs after the exec.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SIGKILL = 9

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL)) or os.getppid() != parent:
        sys.exit("the parent process is gone")
    os.execv(program[0], program)  # noqa: S606 - the program is the caller's choice
