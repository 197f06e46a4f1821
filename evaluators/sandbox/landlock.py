"""Landlock: which files a confined process may still open (kernel 5.13 and later; works without privileges)."""

import ctypes
import os
import stat
import struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE = 1 << 14
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""File-system rights that each ABI knows; later ones know those of 5."""
TCP_FROM_ABI, SCOPES_FROM_ABI = 4, 6


def abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, int(_libc().syscall(CREATE_RULESET, None, 0, 1)))


def restrict(readable: list[str], devices: list[str], writable: str, version: int) -> None:
    """Leave this process the readable trees, the devices and the writable folder, with all that a version can refuse.

    Raises OSError where the kernel refuses. `no_new_privs` must be set.
    """
    handled = HANDLED[min(version, 5)]
    network = 3 if version >= TCP_FROM_ABI else 0
    scopes = 3 if version >= SCOPES_FROM_ABI else 0
    rules = struct.pack("=QQQ", handled, network, scopes)[
        : 8 if version < TCP_FROM_ABI else 16 if version < SCOPES_FROM_ABI else 24
    ]
    ruleset = _call(CREATE_RULESET, rules, len(rules), 0)
    for path in readable:
        _allow(ruleset, path, (READ_FILE | READ_DIR | EXECUTE) & handled)
    for path in devices:
        _allow(ruleset, path, (READ_FILE | WRITE_FILE) & handled)
    _allow(ruleset, writable, handled & ~EXECUTE)
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= FILE_RIGHTS
    _call(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    os.close(descriptor)


def _call(number: int, *arguments: int | bytes) -> int:
    found = int(_libc().syscall(number, *arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
