"""A sandbox for Python that a model wrote. Standard library only.

`run(program)` starts a fresh process that confines itself, runs the program and says whether it came to its end. The layers,
from the outside in: an empty environment and an empty folder; limits on CPU, memory, files and descriptors; namespaces for
users, network and IPC where the machine allows them; Landlock, which leaves the Python runtime to read and the folder to write;
no capabilities; and last seccomp, which refuses sockets, new processes, other programs, signals to others, tracing, ownership
and permission changes, and everything else that reaches beyond the process. Landlock and seccomp are needed; without them the
verdict is `refused`.

A program passed when a number that the parent drew at random arrives on a private descriptor after the program's last line,
the exit code is 0, and both happened in time. Exit codes, printed words and `atexit` cannot forge that.

What it does not protect from:

- The number lies in the program's own process. Code that walks frames or memory can find it, and an object whose `__eq__`
  always agrees passes any assertion. Programs that mention such means are marked `suspicious`, not refused.
- seccomp works by a list of what is denied (and denies system calls that are newer than the list). A hole in the kernel
  behind an allowed call is a way out.
- `stat` tells whether a file outside exists and how large it is. The clock, the kernel's version and the machine's load can
  be read.
- The Python runtime and the system's libraries can be read, so nothing secret may lie among them.

Run on x86-64. The filter for aarch64 is built and tested as bytes, and has not been run.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evaluators.sandbox.outside import Limits, Result, run, run_all
    from evaluators.sandbox.selftest import Escaped, require, self_test

__all__ = ["Escaped", "Limits", "Result", "require", "run", "run_all", "self_test"]

# Lazy: the sandboxed process imports this package too, at every start, and needs none of the parent's side.
WHERE = {
    **dict.fromkeys(("Limits", "Result", "run", "run_all"), "evaluators.sandbox.outside"),
    **dict.fromkeys(("Escaped", "require", "self_test"), "evaluators.sandbox.selftest"),
}


def __getattr__(name: str) -> object:
    if name not in WHERE:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(WHERE[name]), name)
