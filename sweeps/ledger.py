"""The ledger: the append-only record of a run, one JSON object a line. Everything else can be rebuilt from it.

One process writes it. A line counts when it is complete: what a crash cut short is ignored, and a cut last line written
over. On a disk it is `ledger.jsonl`; a bucket has no append, so there each event is an immutable segment
`ledger/000001.jsonl`, read with many requests at a time.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from data.files import Folder

Event = dict[str, Any]
FILE = "ledger.jsonl"
SEGMENTS = "ledger"
READERS = 16


class TwoWriters(RuntimeError):
    """Another process has written into the ledger that this one holds."""


def read(folder: Folder) -> list[Event]:
    """All complete lines of a run's ledger, [] where there is none."""
    return list(_events(line for text in _texts(folder) for line in _complete(text)))


def told(record: Event) -> Event:
    """The part of a store record that events carry."""
    names = ("device_seconds", "tokens", "steps", "loss", "scores", "cost")
    return {name: record[name] for name in names if name in record}


class Ledger:
    """Appends events to the ledger of a run; each is durable when `append` returns."""

    def __init__(self, folder: Folder, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock
        self._pen: _Pen = _File(folder) if folder.local else _Segments(folder)

    def append(self, event: str, **values: Any) -> Event:
        """Write one event with the present time and return it. Raises ValueError for a number that is not finite."""
        line = {"event": event, "time": self._clock(), **values}
        self._pen.write(json.dumps(line, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        return line

    def close(self) -> None:
        self._pen.close()


class _Pen(Protocol):
    def write(self, line: bytes) -> None: ...
    def close(self) -> None: ...


class _File:
    def __init__(self, folder: Folder) -> None:
        folder.path().mkdir(parents=True, exist_ok=True)
        complete = sum(map(len, _complete(folder.read(FILE) or b"")))
        self._file = folder.path(FILE).open("ab")
        self._file.truncate(complete)

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Segments:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._last = max((int(name.split(".")[0]) for name in _segments(folder)), default=0)

    def write(self, line: bytes) -> None:
        name = f"{SEGMENTS}/{self._last + 1:06d}.jsonl"
        if self._folder.exists(name):
            raise TwoWriters(f"{self._folder}/{name} was written by another process; stop it, then continue this run")
        self._folder.write(name, line)
        self._last += 1

    def close(self) -> None:
        pass


def _texts(folder: Folder) -> Iterator[bytes]:
    if folder.local:
        yield folder.read(FILE) or b""
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from (text or b"" for text in pool.map(folder.read, (f"{SEGMENTS}/{name}" for name in _segments(folder))))


def _segments(folder: Folder) -> list[str]:
    return sorted((n for n in folder.names(SEGMENTS) if n.endswith(".jsonl")), key=lambda name: int(name.split(".")[0]))


def _complete(text: bytes) -> list[bytes]:
    """The lines that end. One that a crash cut short can only be the last."""
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def _events(lines: Iterator[bytes]) -> Iterator[Event]:
    """The events among the lines; what is no JSON object is ignored."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event
