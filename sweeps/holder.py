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
from dataclasses import asdict, dataclass, replace

import psutil

from data.files import Folder
from sweeps.interrupt import interruptible

BEAT_S = 5.0
PATIENCE_S = 30.0
SETTLES_IN_S = {True: 0.2, False: 1.0}
"""After which of two that wrote at the same moment the last is known, on a disk and in a bucket."""


class Held(RuntimeError):
    """Another live process holds the run."""


@dataclass(frozen=True)
class Holder:
    """The content of `holder.json`. `owner` is the run on whose behalf something is held."""

    host: str
    boot: str
    pid: int
    started: float
    token: str
    counter: int
    owner: str = ""
    beat: float = 0.0
    """Unix time, by the holder's own clock, at which the counter moved last."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Beat:
    """Writes this process into a file as its holder and keeps the counter there moving.

    `lost` is called, from a thread, when another holder stands in the file.
    """

    def __init__(self, folder: Folder, name: str, owner: str = "", lost: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._name = name
        self._lost = lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.me = myself(owner)
        self.lost = False

    def take(self) -> Holder | None:
        """Write this process; None where it holds now, else the one that wrote at the same moment, and later."""
        self._write()
        time.sleep(SETTLES_IN_S[self._folder.local])
        current = read(self._folder, self._name)
        if current is None or current.token != self.me.token:
            return current or self.me
        self._thread.start()
        return None

    def release(self) -> None:
        """Remove the file, where it is still ours."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.lost:
            self._folder.remove(self._name)

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                found = read(self._folder, self._name)
                if found is None or found.token != self.me.token:
                    self.lost = True
                    return self._lost()
                self.me = replace(self.me, counter=self.me.counter + 1)
                self._write()
            except OSError:  # a storage that does not answer for a moment; who watches us waits longer than that
                continue

    def _write(self) -> None:
        self.me = replace(self.me, beat=time.time())
        self._folder.write(self._name, json.dumps(asdict(self.me)).encode())


class Hold:
    """Holds a run while the `with` block runs; SIGTERM then interrupts as Ctrl-C does. Raises Held where someone else holds."""

    def __init__(self, folder: Folder, say: Callable[[str], None] = print) -> None:
        self._folder = folder
        self._say = say
        self.last_seen = 0.0  # when the holder before us, which ended without a word, was last alive
        # Stopped for so long that another took over: writing on would give the ledger two writers.
        # By SIGTERM, because a shell may have told this process to ignore Ctrl-C.
        self._beat = Beat(folder, "holder.json", lost=lambda: _thread.interrupt_main(signal.SIGTERM))

    def __enter__(self) -> "Hold":
        current = read(self._folder)
        if current:
            self._wait_for(current)
            self.last_seen = current.beat
        faster = self._beat.take()
        if faster:
            raise Held(f"{self._folder} is held by {faster}; wait for it or stop it")
        self._signals = interruptible()
        self._signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._beat.release()
        self._signals.__exit__(None, None, None)

    def _wait_for(self, current: Holder) -> None:
        if here(current):
            if alive(current):
                raise Held(f"{self._folder} is held by {current}, which is running; wait for it or stop it")
            return
        self._say(f"the run was held by {current}; taking it over if its counter rests for {PATIENCE_S:.0f} s")
        moved = watch(self._folder, "holder.json", current)
        if moved:
            raise Held(f"{self._folder} is held by {moved}, whose counter moves; wait for it or stop it")


def watch(folder: Folder, name: str, current: Holder) -> Holder | None:
    """The holder in a file once its counter moves or it is another one; None when it rests, or the file is gone."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        time.sleep(min(1.0, PATIENCE_S / 10))
        found = read(folder, name)
        if found is None:
            return None
        if found.counter != current.counter or found.token != current.token:
            return found
    return None


def myself(owner: str = "") -> Holder:
    """This process as a holder."""
    return Holder(
        host=socket.gethostname(),
        boot=_boot(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        token=uuid.uuid4().hex,
        counter=0,
        owner=owner,
    )


def read(folder: Folder, name: str = "holder.json") -> Holder | None:
    """The holder named in a file, None where there is no file or no holder in it."""
    try:
        return Holder(**json.loads(folder.read(name) or b""))
    except (ValueError, TypeError):
        return None


def here(holder: Holder) -> bool:
    """Whether a holder is a process of this machine, since it was started."""
    return holder.host == socket.gethostname() and holder.boot == _boot()


def alive(holder: Holder) -> bool:
    """Whether a holder of this machine is running."""
    try:
        process = psutil.Process(holder.pid)
        same = abs(process.create_time() - holder.started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
