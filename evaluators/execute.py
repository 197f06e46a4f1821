"""Running model-written Python in a process of its own, with limits.

This is NOT a sandbox. The program runs as the same user, may read files and open sockets, and can forge its verdict. It is
only used where the user wrote `evaluate.allow_unsandboxed_code: true`.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

CPU_SECONDS = 3
WALL_SECONDS = 10
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Run:
    """How a program ended, and the last line of what it complained about."""

    verdict: Literal["passed", "failed", "timeout"]
    reason: str = ""


def run_all(programs: Sequence[str], parallel: int = 2) -> list[Run]:
    """Run programs, some at a time; each passes when it ends without an exception."""
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(run, programs))


def run(program: str) -> Run:
    """Run one program with an empty environment in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-c", program],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=WALL_SECONDS,
                preexec_fn=_limit,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return Run("timeout", f"{WALL_SECONDS} s")
        except ValueError as error:  # a NUL byte in the program
            return Run("failed", str(error))
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    return Run("passed") if ended.returncode == 0 else Run("failed", (lines or [f"exit {ended.returncode}"])[-1][:200])


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
