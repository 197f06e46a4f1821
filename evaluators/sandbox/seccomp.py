"""The seccomp filter: which system calls a confined process may still make.

A classic BPF program, assembled here from rules. Denied calls fail with EPERM, so that the program under test sees an
exception and not a kill; only a call through another architecture's table kills.
"""

import ctypes
import errno
import os
import struct

from evaluators.sandbox.calls import ASKED, DENIED, NEWER

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit number and column in the tables of calls."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, MISSING = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER, ARCHITECTURE, X32_BIT = 0, 4, 0x40000000
CLONE_THREAD = 0x00010000
PR_SET_NAME = 15
F_SETOWN, F_SETOWN_EX, F_SETSIG = 8, 15, 10
FIOSETOWN, SIOCSPGRP, TIOCSTI = 0x8901, 0x8902, 0x5412
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""


def build(machine: str, pid: int) -> bytes:
    """The filter of an architecture for a process, as the kernel takes it. Raises KeyError for another architecture."""
    audit, column = ARCHITECTURES[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        program += [(AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL)]
    program += [(AT_LEAST, 0, 1, NEWER), (RETURN, 0, 0, MISSING)]
    for numbers in DENIED.values():
        program += _when(numbers[column], [(RETURN, 0, 0, DENY)])
    for name, numbers in ASKED.items():
        program += _when(numbers[column], _questions(pid)[name])
    program += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def install(program: bytes) -> None:
    """Put the filter on this process and all its threads to come. Raises OSError where the kernel refuses."""

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(program, len(program))
    given = Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _when(number: int | None, then: list[Instruction]) -> list[Instruction]:
    """Instructions for one call; they end in a return, so the number stays loaded for the next one."""
    return [] if number is None else [(EQUAL, 0, len(then), number), *then]


def _questions(pid: int) -> dict[str, list[Instruction]]:
    """What is asked of the arguments of a call before it is allowed."""
    truncating = [(AND, 0, 0, os.O_TRUNC | os.O_ACCMODE), (EQUAL, 0, 1, os.O_TRUNC), *_deny_else_allow()]
    return {
        "clone": [_argument(0), (ANY_BIT, 1, 0, CLONE_THREAD), *_deny_else_allow()],
        "clone3": [(RETURN, 0, 0, MISSING)],  # its flags lie in memory; libc falls back to clone
        "tgkill": [_argument(0), (EQUAL, 1, 0, pid), *_deny_else_allow()],
        "prctl": [_argument(0), (EQUAL, 1, 0, PR_SET_NAME), *_deny_else_allow()],
        "prlimit64": [_argument(0), (EQUAL, 2, 0, 0), (EQUAL, 1, 0, pid), *_deny_else_allow()],
        "fcntl": [_argument(1), *_any_of(F_SETOWN, F_SETOWN_EX, F_SETSIG)],
        "ioctl": [_argument(1), *_any_of(FIOSETOWN, SIOCSPGRP, TIOCSTI)],
        # Landlock below ABI 3 lets a file that may be read be truncated.
        "open": [_argument(1), *truncating],
        "openat": [_argument(2), *truncating],
    }


def _argument(index: int) -> Instruction:
    """Load the lower half of an argument; no flag or id here is larger."""
    return (LOAD, 0, 0, 16 + 8 * index)


def _deny_else_allow() -> list[Instruction]:
    return [(RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]


def _any_of(*values: int) -> list[Instruction]:
    """Deny when the loaded value is one of these."""
    jumps = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*jumps, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, DENY)]
