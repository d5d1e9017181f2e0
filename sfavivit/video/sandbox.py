"""Sandbox for the decoder: a hostile file that takes it over gains nothing.

Runs as ``python -I -S sandbox.py PARENT MEMORY_BYTES READABLE_FILE... -- PROGRAM ARGUMENT...``, confines
itself and then becomes the program. It runs for every video, so it imports only modules that load in a few
milliseconds (not json, pathlib or signal). Its layers:

    layer                 stops                                               where it is missing
    session, death signal a decoder that outlives its caller                  refuses to run
    RLIMIT_AS             memory beyond the limit                             refuses to run
    RLIMIT_FSIZE, _CORE   writing any file, core dumps                        refuses to run
    RLIMIT_NOFILE         opening more than a handful of files at once        refuses to run
    no_new_privs          gaining rights through a set-uid program            refuses to run
    seccomp               any new socket (TCP, UDP, Unix), and io_uring       runs
    Landlock ABI 1        opening or running any file but the program's own   runs
    ... ABI 4, ABI 6      TCP once more; signals to other processes           runs

The video is never opened in here: it arrives as descriptor 0, which Landlock leaves usable. The last three
rows are best effort: seccomp needs x86-64 or arm64, Landlock a kernel with it enabled. On systems other than
Linux only the session and the RLIMITs are applied.

The death signal is tied to the *thread* that starts the child (prctl(2)), so the caller must start it from a
thread that lives as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False  # the import of typing would take too long
if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODE = 125
"""Exit status of a child that could not be confined or could not become the program."""

MAX_OPEN_FILES = 16

_SIGKILL = 9

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38

# linux/audit.h, and socket(2) in each machine's system call table; io_uring_setup has one number.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
_X32_BIT = 0x40000000

# linux/landlock.h; these numbers are the same on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_EXECUTE, _READ_FILE = 1 << 0, 1 << 2
_FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # rights are consecutive bits from 0
_NET_TCP_ABI, _SCOPE_ABI = 4, 6


def confined_command(program: Sequence[str], *, memory_bytes: int, readable: Sequence[str]) -> list[str]:
    """Return the command line that runs ``program`` confined, as a child of this process.

    ``readable``: the only files that it may open or execute. Start it with ``start_new_session=True``.
    """
    policy = [str(os.getpid()), str(memory_bytes), *readable, "--"]
    return [sys.executable, "-I", "-S", __file__, *policy, *program]


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock; 0 if it has none or has it disabled."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION))


def main(arguments: Sequence[str]) -> None:
    """Confine this process and become the program.

    Raises:
        OSError: a layer cannot be applied, or the program cannot be executed.
    """
    end = arguments.index("--")
    parent, memory_bytes, readable = int(arguments[0]), int(arguments[1]), arguments[2:end]
    program = list(arguments[end + 1 :])
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_FSIZE", 0)
    if sys.platform == "linux":
        _die_with(parent)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _landlock(readable)
        _no_sockets()
    _limit("RLIMIT_NOFILE", MAX_OPEN_FILES)
    _limit("RLIMIT_AS", memory_bytes)
    os.execv(program[0], program)  # noqa: S606 - the program is the caller's choice


def _limit(name: str, value: int) -> None:
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:  # it died before the signal was requested, so the signal will never come
        raise OSError("the parent process is gone")


def _landlock(readable: Sequence[str]) -> None:
    abi = landlock_abi()
    if not abi:
        return
    rights = (1 << _FS_RIGHTS_BY_ABI.get(abi, 16)) - 1
    net = 0b11 if abi >= _NET_TCP_ABI else 0  # bind and connect
    scope = 0b11 if abi >= _SCOPE_ABI else 0  # abstract Unix sockets and signals
    # The structure grew with the ABI; an older kernel accepts the new fields if they are zero.
    attributes = struct.pack("=QQQ", rights, net, scope)
    ruleset = _check(_syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path in readable:
        try:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a missing file needs no permission
        rule = struct.pack("=Qi", _EXECUTE | _READ_FILE, target)
        _check(_syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
        os.close(target)
    _check(_syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _no_sockets() -> None:
    """Install a seccomp filter that refuses new sockets (linux/filter.h, linux/seccomp.h)."""
    if os.uname().machine not in _MACHINES or sys.maxsize < 1 << 32:
        return
    architecture, socket = _MACHINES[os.uname().machine]
    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refuse: EPERM
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, architecture),
        (leave, 0, 0, kill),
        (load, 0, 0, 0),  # seccomp_data.nr
        (equal, 3, 0, socket),
        (equal, 2, 0, _IO_URING_SETUP),
        (at_least, 1, 0, _X32_BIT),
        (leave, 0, 0, allow),
        (leave, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    pointer = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(pointer), optional=True)


def _prctl(option: int, value: int, pointer: int = 0, *, optional: bool = False) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(item) for item in (value, pointer, 0, 0)]
    if libc.prctl(option, *arguments) and not optional:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        print(f"[fatal] sandbox: {error}", file=sys.stderr)
        sys.exit(EXIT_CODE)
