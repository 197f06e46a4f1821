"""The ledger: the append-only record of a run, one JSON object a line. Everything else can be rebuilt from it.

One process writes it. A line counts when it is complete: a line that a crash cut short is ignored and written over.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read(path: Path) -> list[Event]:
    """All complete lines of a ledger, [] where there is none."""
    return [json.loads(line) for line in _lines(path)]


def told(record: Event) -> Event:
    """The part of a store record that events carry."""
    return {name: record[name] for name in ("device_seconds", "tokens", "steps", "loss", "scores") if name in record}


class Ledger:
    """Appends events to a file; each is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        complete = sum(len(line) for line in _lines(path))
        self._file = path.open("ab")
        self._file.truncate(complete)

    def append(self, event: str, **values: Any) -> Event:
        """Write one event with the present time and return it. Raises ValueError for a number that is not finite."""
        line = {"event": event, "time": time.time(), **values}
        self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return line

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> Iterator[bytes]:
    """Complete lines up to the first that is cut short or damaged."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not _parses(line):
            return
        yield line


def _parses(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
