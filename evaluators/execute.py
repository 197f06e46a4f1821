"""Running model-written programs: in the sandbox, or without one where the user wrote that this is accepted.

Without the sandbox there are process limits only: the program runs as the same user, may read files and open sockets, and can
forge its verdict.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaluators import sandbox
from evaluators.benchmark import EvaluationFailed

CPU_SECONDS = 3
WALL_SECONDS = 10
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Ended:
    """How a program ended, and by which suspicious means it may have got there."""

    verdict: Literal["passed", "failed", "timeout", "refused"]
    reason: str = ""
    suspicious: tuple[str, ...] = ()

    @property
    def detail(self) -> dict[str, Any]:
        """As a verdict's detail."""
        return {"verdict": self.verdict, "reason": self.reason, "suspicious": list(self.suspicious)}


def execute(programs: Sequence[str], unsandboxed: bool) -> list[Ended]:
    """Run programs, several at a time. Raises EvaluationFailed where the sandbox does not hold: that is no score of 0."""
    if unsandboxed:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(run_unsandboxed, programs))
    confinement(unsandboxed)
    ended = [Ended(r.verdict, r.reason, r.suspicious) for r in sandbox.run_all(programs)]
    refused = [e.reason for e in ended if e.verdict == "refused"]
    if refused:
        raise EvaluationFailed(f"the sandbox refused {len(refused)} of {len(programs)} programs: {refused[0]}")
    return ended


def confinement(unsandboxed: bool) -> dict[str, Any]:
    """What confines the programs of an evaluation, for its record."""
    if unsandboxed:
        return {"sandbox": "none"}
    try:
        return {"sandbox": "+".join(sandbox.require())}
    except sandbox.Escaped as escaped:
        raise EvaluationFailed(str(escaped)) from escaped


def run_unsandboxed(program: str) -> Ended:
    """Run one program with an empty environment in an empty folder; it passes when its exit code is 0."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8", errors="surrogatepass")
        process = subprocess.Popen(
            [sys.executable, "-I", str(file)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            preexec_fn=_limit,
            start_new_session=True,
        )
        try:
            code = process.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return Ended("timeout", f"{WALL_SECONDS} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return Ended("passed") if code == 0 else Ended("failed", (lines or [f"exit code {code}"])[-1][:200])


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
