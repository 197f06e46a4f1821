"""The ledger: the append-only record of a run, one JSON object a line. Everything else can be rebuilt from it.

One process writes it. A line counts when it is complete: what a crash cut short is ignored, and a cut
last line written over.
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
    return list(_events(_complete(path)))


def told(record: Event) -> Event:
    """The part of a store record that events carry."""
    names = ("device_seconds", "tokens", "steps", "loss", "scores", "cost")
    return {name: record[name] for name in names if name in record}


class Ledger:
    """Appends events to a file; each is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        complete = sum(map(len, _complete(path)))
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


def _complete(path: Path) -> list[bytes]:
    """The lines that end. One that a crash cut short can only be the last."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [line + b"\n" for line in lines]


def _events(lines: list[bytes]) -> Iterator[Event]:
    """The events among the lines; what is no JSON object is ignored."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event
