"""The sandboxed process: it takes its job from a pipe, confines itself, runs the program and says how it ended.

Started by `outside.py` as `python -I -S`. What is needed after the filter is on is imported before, and little is: every
program pays for the start.
"""

import ctypes
import marshal
import os
import resource
import sys

from evaluators.sandbox import landlock, seccomp

NEW_USER, NEW_NET, NEW_IPC, NEW_UTS = 0x10000000, 0x40000000, 0x08000000, 0x04000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 4, 38, 9
CAPSET, CAPABILITIES_V3 = {"x86_64": 126, "aarch64": 91}, 0x20080522
SYSTEM = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
DEVICES = ["/dev/null", "/dev/urandom"]


def main(job: int, verdict: int) -> None:
    """Read the job, run it, write to the verdict's descriptor: what confines it, then the nonce or the exception."""
    with os.fdopen(job, "rb") as pipe:
        given = marshal.loads(pipe.read())
    try:
        confined_by = _confine(given)
    except (OSError, KeyError, ValueError) as error:
        _tell(verdict, {"refused": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _tell(verdict, {"confined_by": confined_by})
    try:
        exec(compile(given["program"], "<program>", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        _tell(verdict, {"error": _last_line(error)})
        os._exit(1)
    _tell(verdict, {"nonce": given["nonce"]})
    os._exit(0)


def _confine(given: dict) -> list[str]:
    machine = os.uname().machine
    program = seccomp.build(machine, os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != given["parent"]:
        raise OSError("the parent is gone")
    confined_by = _namespaces(libc)
    _limits(given)
    _prctl(libc, PR_SET_DUMPABLE, 0)
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    version = min(landlock.abi(), given["landlock"])
    if version < 1:
        raise OSError("the kernel has no Landlock; use Linux 5.13 or later with the landlock LSM switched on")
    landlock.restrict(_readable(), DEVICES, given["folder"], version)
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    libc.syscall(CAPSET[machine], header, nothing)
    seccomp.install(program)
    return [*confined_by, "rlimits", f"landlock{version}", "seccomp"]


def _namespaces(libc: ctypes.CDLL) -> list[str]:
    """Of users, network, IPC and names, where the machine allows it; the other layers hold without them."""
    return ["namespaces"] if libc.unshare(NEW_USER | NEW_NET | NEW_IPC | NEW_UTS) == 0 else []


def _limits(given: dict) -> None:
    for limit, value in given["limits"].items():
        resource.setrlimit(getattr(resource, limit), tuple(value))


def _readable() -> list[str]:
    """The Python runtime and the system's libraries."""
    library = os.path.dirname(os.__file__)
    return [*SYSTEM, library, *(path for path in sys.path if path.endswith("site-packages"))]


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _tell(verdict: int, message: dict, write=os.write, dumps=marshal.dumps) -> None:  # type: ignore[no-untyped-def]
    # The functions are bound when the module is loaded: a program may replace os.write, and gains nothing by it.
    text = dumps(message)
    write(verdict, len(text).to_bytes(4, "big") + text)


def _last_line(error: BaseException) -> str:
    try:
        said = f"{type(error).__name__}: {error}"
        return said.removesuffix(": ").splitlines()[0][:500]
    except BaseException:  # an exception whose own text fails
        return type(error).__name__
