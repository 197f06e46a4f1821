"""The parent's side of the sandbox: start a process, watch it, take its verdict, leave nothing behind."""

import contextlib
import marshal
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evaluators.sandbox.suspicion import means

ROOT = str(Path(__file__).parents[2])
WATCH_EVERY_S = 0.05
KEPT_OUTPUT = 1 << 16
SECRET_BYTES = 16
MOST_AT_A_TIME = 32
LATE, FLOOD = "too late", "too much written into its folder"


@dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides; the wall clock is a looser limit behind it."""

    cpu_s: int = 3
    wall_s: float = 10.0
    memory: int = 4 << 30
    file: int = 1 << 20
    folder: int = 64 << 20
    descriptors: int = 64
    landlock: int = 99
    """Use Landlock up to this ABI; for tests of older kernels."""


@dataclass(frozen=True)
class Result:
    """How a program ended. `cpu_s` is what it used, start of Python included."""

    verdict: Literal["passed", "failed", "timeout", "refused"]
    reason: str
    confined_by: tuple[str, ...]
    suspicious: tuple[str, ...]
    cpu_s: float = 0.0


def run_all(programs: Sequence[str], limits: Limits | None = None, parallel: int | None = None) -> list[Result]:
    """Results in the order of the programs; as many at a time as this process has cores, up to MOST_AT_A_TIME.

    A program that ran out of time is tried once more, alone, since a busy machine is not the program's fault.
    """
    with ThreadPoolExecutor(parallel or min(len(os.sched_getaffinity(0)), MOST_AT_A_TIME)) as pool:
        results = list(pool.map(lambda program: run(program, limits), programs))
    late = [i for i, result in enumerate(results) if result.verdict == "timeout"]
    return [run(programs[i], limits) if i in late else result for i, result in enumerate(results)]


def run(program: str, limits: Limits | None = None) -> Result:
    """Run one program in a sandbox of its own. Never raises for what the program does."""
    limits = limits or Limits()
    folder = tempfile.mkdtemp(prefix="sandbox-")
    try:
        found = _Process(program, limits, folder).result()
    except (ValueError, UnicodeEncodeError) as error:  # text that cannot be handed over
        found = Result("failed", f"{type(error).__name__}: {error}", (), ())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(found, suspicious=tuple(means(program)))


class _Process:
    """One sandboxed process from start to verdict."""

    def __init__(self, program: str, limits: Limits, folder: str) -> None:
        self._limits, self._folder = limits, folder
        self._nonce = secrets.token_bytes(SECRET_BYTES)
        self._told = b""
        self._until = time.monotonic() + limits.wall_s
        job, feed = os.pipe()
        self._verdict, tell = os.pipe()
        try:
            text = marshal.dumps(self._job(program))
            self._child = _start(job, tell, folder)
        except BaseException:
            os.close(feed)
            os.close(self._verdict)
            raise
        finally:
            os.close(job)
            os.close(tell)
        threading.Thread(target=_feed, args=(feed, text), daemon=True).start()

    def result(self) -> Result:
        """Wait for the end and judge it."""
        stopped = self._watch()
        usage = self._reap()
        messages = _messages(self._told)
        first = messages[0] if messages else {}
        if "confined_by" not in first:
            return Result("refused", str(first.get("refused", "the sandbox did not start")), (), (), usage)
        confined_by = tuple(first["confined_by"])
        if stopped == LATE or usage >= self._limits.cpu_s or self._child.returncode == -signal.SIGXCPU:
            limit = f"{self._limits.cpu_s} s of CPU time or {self._limits.wall_s:g} s"
            return Result("timeout", f"more than {limit}", confined_by, (), usage)
        if stopped:
            return Result("failed", stopped, confined_by, (), usage)
        if self._child.returncode == 0 and any(m.get("nonce") == self._nonce for m in messages[1:]):
            return Result("passed", "", confined_by, (), usage)
        errors = [str(m["error"]) for m in messages[1:] if "error" in m]
        return Result("failed", (errors or [self._ending()])[-1], confined_by, (), usage)

    def _job(self, program: str) -> dict[str, Any]:
        limits = self._limits
        fixed = {"RLIMIT_CORE": (0, 0), "RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1)}
        sizes = {"RLIMIT_AS": limits.memory, "RLIMIT_FSIZE": limits.file, "RLIMIT_NOFILE": limits.descriptors}
        return {
            "program": program,
            "nonce": self._nonce,
            "folder": self._folder,
            "parent": os.getpid(),
            "landlock": limits.landlock,
            "limits": fixed | {name: (size, size) for name, size in sizes.items()},
        }

    def _watch(self) -> str:
        """Read what is written until the process ends; why it was killed, "" where it was not."""
        assert self._child.stdout is not None
        ended, why = os.pidfd_open(self._child.pid), ""
        with selectors.DefaultSelector() as ready:
            # A program may close its descriptors and go on: its end is what counts.
            for source in (ended, self._verdict, self._child.stdout):
                ready.register(source, selectors.EVENT_READ)
            while ended in ready.get_map() and not (why := self._too_much()):
                for key, _ in ready.select(WATCH_EVERY_S):
                    if key.fd == ended or not self._read(key.fd):
                        ready.unregister(key.fileobj)
        os.close(ended)
        while not why and self._read(self._verdict):
            pass  # what was written just before the end
        return why

    def _too_much(self) -> str:
        if time.monotonic() > self._until:
            return LATE
        return FLOOD if _size(self._folder) > self._limits.folder else ""

    def _read(self, descriptor: int) -> bool:
        """Take what is there; false at the end. Output of the program is thrown away, the verdict kept up to a limit."""
        chunk = os.read(descriptor, KEPT_OUTPUT)
        if descriptor == self._verdict:
            self._told += chunk[: KEPT_OUTPUT - len(self._told)]
        return bool(chunk)

    def _reap(self) -> float:
        """End whatever is left of the process and close everything; the CPU seconds that it used."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)  # it changes nothing for a process that has ended
        # wait4 and not Popen.wait, which would throw the CPU time away.
        _, status, usage = os.wait4(self._child.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        assert self._child.stdout is not None
        self._child.stdout.close()
        os.close(self._verdict)
        return usage.ru_utime + usage.ru_stime

    def _ending(self) -> str:
        code = self._child.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code} before the program's end"


def _start(job: int, tell: int, folder: str) -> "subprocess.Popen[bytes]":
    paths = [ROOT, sysconfig.get_paths()["purelib"]]
    code = f"import sys; sys.path += {paths!r}; from evaluators.sandbox.inside import main; main({job}, {tell})"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", code],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(job, tell),
        start_new_session=True,
    )


def _feed(descriptor: int, text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(text)


def _messages(told: bytes) -> list[dict[str, Any]]:
    """The complete messages; whatever a program wrote in between is not one, and ends the list."""
    found: list[dict[str, Any]] = []
    while len(told) >= 4:
        size = int.from_bytes(told[:4], "big")
        text, told = told[4 : 4 + size], told[4 + size :]
        try:
            message = marshal.loads(text)
        except (ValueError, EOFError, TypeError):
            break
        if len(text) < size or not isinstance(message, dict):
            break
        found.append(message)
    return found


def _size(folder: str) -> int:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return 0
