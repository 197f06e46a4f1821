"""The self-test: canaries that try to get out through the same launcher. If one does, no code is run on this node."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from evaluators.sandbox.outside import Limits, Result, run

CANARIES = {
    "reads a file outside": "open({outside!r}).read()",
    "reads its parent's environment": "open('/proc/{parent}/environ', 'rb').read()",
    "writes a file outside": "open({outside!r} + '.written', 'w').write('x')",
    "signals its parent": "import os; os.kill({parent}, 0)",
    "connects to this machine": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "forks": "import os; os.fork() or os._exit(0)",
    "starts a program": "import os; os.execv('/bin/true', ['true'])",
}
GOOD = "import math, random, collections, re\nassert math.floor(2.5) == 2\nopen('own', 'w').write('x')\n"


class Escaped(RuntimeError):
    """The sandbox does not hold on this machine, or cannot be set up."""


@cache
def require(landlock: int = Limits.landlock) -> tuple[str, ...]:
    """What confines a program on this machine, tried out once per process. Raises Escaped with the reason and the remedy."""
    problem, confined_by = self_test(landlock)
    if problem:
        raise Escaped(
            f"model-written code is not run here: {problem}. Use Linux 5.13 or later with Landlock and seccomp "
            f"(gVisor has no Landlock), or accept the risk with evaluate.allow_unsandboxed_code: true"
        )
    return confined_by


def self_test(landlock: int = Limits.landlock) -> tuple[str, tuple[str, ...]]:
    """What went wrong ("" for nothing), and what confines a program."""
    limits = Limits(landlock=landlock)
    good = run(GOOD, limits)
    if good.verdict != "passed":
        return f"a good program was {good.verdict}: {good.reason}", good.confined_by
    with _sentinel() as outside, _listener() as port:
        for name, canary in CANARIES.items():
            result = run(canary.format(outside=outside, parent=os.getpid(), port=port), limits)
            if not _raised(result) or os.path.exists(f"{outside}.written"):
                return f"a program {name} ({result.verdict} {result.reason})", good.confined_by
    return "", good.confined_by


def _raised(result: Result) -> bool:
    return result.verdict == "failed" and result.reason.startswith(("PermissionError", "OSError"))


@contextmanager
def _sentinel() -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("secret")
        file.flush()
        yield file.name


@contextmanager
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return
