"""Who holds a run: one process at a time may write its ledger.

The holder is host, boot id, process id and start time, plus a counter that it keeps moving. On its own host a dead process
is taken over at once. Elsewhere nobody can see the process, so the counter is watched for 30 s of the watcher's own
monotonic clock: clocks of two machines are never compared.
"""

import _thread
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from data.store import write_atomically

BEAT_S = 5.0
PATIENCE_S = 30.0


class Held(RuntimeError):
    """Another live process holds the run."""


@dataclass(frozen=True)
class Holder:
    """The content of `holder.json`."""

    host: str
    boot: str
    pid: int
    started: float
    token: str
    counter: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Hold:
    """Holds a run while the `with` block runs; SIGTERM then interrupts as Ctrl-C does. Raises Held where someone else holds."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self._path = folder / "holder.json"
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._me = myself()
        self.lost = False

    def __enter__(self) -> "Hold":
        current = read(self._path)
        if current:
            self._wait_for(current)
        self._write()
        time.sleep(0.2)  # of two that start at the same moment, the last writer holds
        current = read(self._path)
        if current is None or current.token != self._me.token:
            raise Held(f"{self._path.parent} is held by {current}; wait for it or stop it")
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        signal.signal(signal.SIGTERM, self._before)
        if not self.lost:
            self._path.unlink(missing_ok=True)

    def _wait_for(self, current: Holder) -> None:
        if current.host == self._me.host and current.boot == self._me.boot:
            if _alive(current):
                raise Held(f"{self._path.parent} is held by {current}, which is running; wait for it or stop it")
            return
        self._say(f"the run was held by {current}; taking it over if its counter rests for {PATIENCE_S:.0f} s")
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            time.sleep(min(1.0, PATIENCE_S / 10))
            found = read(self._path)
            if found is None:
                return
            if found.counter != current.counter or found.token != current.token:
                raise Held(f"{self._path.parent} is held by {found}, whose counter moves; wait for it or stop it")

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            found = read(self._path)
            if found is None or found.token != self._me.token:
                # Stopped for so long that another took over: writing on would give the ledger two writers.
                self.lost = True
                # By SIGTERM, because a shell may have told this process to ignore Ctrl-C.
                _thread.interrupt_main(signal.SIGTERM)
                return
            self._me = Holder(**asdict(self._me) | {"counter": self._me.counter + 1})
            self._write()

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(asdict(self._me)).encode())


def myself() -> Holder:
    """This process as a holder."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Holder(
        host=socket.gethostname(),
        boot=boot.read_text().strip() if boot.exists() else "",
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        token=uuid.uuid4().hex,
        counter=0,
    )


def read(path: Path) -> Holder | None:
    """The holder named in a file, None where there is no file or no holder in it."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _alive(holder: Holder) -> bool:
    try:
        process = psutil.Process(holder.pid)
        same = abs(process.create_time() - holder.started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
