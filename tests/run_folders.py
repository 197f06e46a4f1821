"""Reading run folders, and watching the processes of a run."""

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from conftest import FULCRUM, ROOT
from data.files import Folder
from sweeps.ledger import read


class Quiet:
    """A progress that shows nothing."""

    def say(self, text):
        pass

    def doing(self, text):
        pass


def events(folder: Path | Folder) -> list[dict]:
    return read(folder if isinstance(folder, Folder) else Folder(folder))


def finished_stages(folder: Path | Folder) -> list[dict]:
    return [event for event in events(folder) if event["event"] == "stage_finished"]


def table(folder: Path) -> list[dict]:
    """The rows of trials.csv without the columns that depend on time."""
    rows = csv.DictReader((folder / "trials.csv").open())
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


def start(work: Path, mark: str, *more: str) -> subprocess.Popen:
    """Start `fulcrum run c.yaml` in a folder, with a mark in the environment of all its processes."""
    return subprocess.Popen(
        [*FULCRUM, "run", "c.yaml", *more],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FULCRUM_TEST": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """For a child process: a shell that starts tests in the background has them ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, seconds: float = 300, what=""):
    """The first true value of a condition; fails when it does not come."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what() if callable(what) else what or condition}"
        time.sleep(0.1)
    return value


def marked(mark: str) -> list[psutil.Process]:
    """Processes whose environment holds a mark that a test gave to a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FULCRUM_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
