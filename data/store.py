"""The store: content-addressed artefacts, published atomically.

An entry is `<root>/<kind>/<key>/<attempt>/...` plus `DONE`, a JSON record that names the attempt and is written last.
Nothing without `DONE` exists. Two writers of one key waste time and never corrupt: each has an attempt of its own, and
whichever marker is written last wins. The same on a local disk and on an object store, which has no rename.

Files are compared with their checksums when a process first uses an entry. One that is torn or altered is set aside: its
marker moves to `.set-aside/`, so that it does not exist any more, and whoever asks next makes it again.
"""

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.files import Folder, flush, write_atomically
from data.fingerprint import file_digest

__all__ = ["Damaged", "Missing", "Record", "Store", "Unusable", "write_atomically"]

Record = dict[str, Any]
SET_ASIDE = ".set-aside"

_sound: set[str] = set()
"""Attempts whose files this process has compared with their checksums."""


class Unusable(RuntimeError):
    """An entry cannot be had. Whoever can make it may do so."""

    def __init__(self, kind: str, key: str, reason: str) -> None:
        super().__init__(kind, key, reason)
        self.kind, self.key, self.reason = kind, key, reason

    def __str__(self) -> str:
        return f"{self.kind}/{self.key} {self.reason}"


class Missing(Unusable, KeyError):
    """An entry has not been published, or was taken away."""


class Damaged(Unusable):
    """The files of an entry are not those that were published. It has been set aside and can be made again."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.key} is damaged ({self.reason}); it was set aside and will be made again"


class Store:
    """Artefacts below `root`, a local path or a URI that pyarrow knows (s3://, gs://, file://)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = Folder(root)

    def record(self, kind: str, key: str) -> Record | None:
        """The `DONE` record of an entry, or None where it has not been published. One that is no record is set aside."""
        text = self.folder.read(f"{kind}/{key}/DONE")
        if text is None:
            return None
        found = _record(text)
        if found is None:
            self.set_aside(kind, key, None, "its marker DONE is no record")
        return found

    @property
    def local(self) -> bool:
        """Whether entries are files of this machine, and scratch folders their own place."""
        return self.folder.local

    def keys(self, kind: str, prefix: str = "") -> list[str]:
        """The keys of a kind that begin with a prefix, also those of attempts that were never published."""
        return [key for key in self.folder.names(kind) if key.startswith(prefix)]

    def records(self, kind: str, prefix: str = "") -> list[Record]:
        """The records of the published entries of a kind whose keys begin with a prefix."""
        found = (self.record(kind, key) for key in self.keys(kind, prefix))
        return [record for record in found if record is not None]

    def fetch(self, kind: str, key: str, compare: bool = True) -> Path:
        """A local folder with the entry's files; from an object store they are copied once per machine.

        Raises Missing where the entry has not been published, Damaged where its files are not those of its record; those who
        share the work of comparing them do so themselves and pass `compare=False`.
        """
        record = self.record(kind, key)
        if record is None:
            raise Missing(kind, key, f"is not in the store {self.root}")
        if not self.folder.local:
            return self._copied(record, compare)
        folder = self.folder.path(f"{kind}/{key}/{record['attempt']}")
        if compare and str(folder) not in _sound:
            self._compare(folder, record)
            _sound.add(str(folder))
        return folder

    def sound(self, kind: str, key: str) -> bool:
        """Whether an entry is there with the files that were published. One that is damaged is set aside."""
        try:
            self.fetch(kind, key)
        except Unusable:
            return False
        return True

    @contextmanager
    def writing(self, kind: str, key: str, record: Record) -> Iterator[Path]:
        """A folder to write an entry into; leaving the block publishes it, an exception leaves no entry.

        `record` is read when the block ends, so the block may still fill it.
        """
        attempt = self.attempt()
        folder = self.scratch(kind, key, attempt)
        try:
            yield folder
            self.publish(kind, key, attempt, record, self.put(kind, key, attempt, folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not self.folder.local:
            shutil.rmtree(folder)

    def attempt(self) -> str:
        """A fresh name for an attempt at an entry. Processes that write one entry together share it."""
        return f"{int(time.time())}-{uuid.uuid4().hex[:8]}"

    def scratch(self, kind: str, key: str, attempt: str) -> Path:
        """A local folder to write the files of an attempt into: already their place on a local disk, else a temporary one."""
        if not self.folder.local:
            return Path(tempfile.mkdtemp(prefix="fulcrum-"))
        folder = self.folder.path(f"{kind}/{key}/{attempt}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, kind: str, key: str, attempt: str, folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
        """Make files of a scratch folder durable, all or the named ones; their SHA-256 by relative path."""
        files = [folder / name for name in names] if names is not None else sorted(p for p in folder.rglob("*") if p.is_file())
        for path in files:
            self.folder.put(path, f"{kind}/{key}/{attempt}/{path.relative_to(folder).as_posix()}")
        if self.folder.local:
            flush(folder)
        return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}

    def publish(self, kind: str, key: str, attempt: str, record: Record, checksums: Mapping[str, str]) -> None:
        """Write the marker of an attempt whose files are all put: from here on the entry exists."""
        done = {**record, "kind": kind, "key": key, "attempt": attempt, "checksums": dict(checksums), "time": time.time()}
        self.folder.write(f"{kind}/{key}/DONE", json.dumps(done, sort_keys=True).encode())

    def delete(self, kind: str, key: str) -> None:
        """Remove an entry, its marker first, so that no reader finds half of one. Nothing happens where there is none."""
        self.folder.remove(f"{kind}/{key}/DONE")
        self.folder.remove(f"{kind}/{key}")

    def set_aside(self, kind: str, key: str, attempt: str | None, reason: str) -> None:
        """Take the marker of an attempt away and keep it with the reason; nothing happens where another is published by now.

        `attempt` is None for a marker that is no record.
        """
        marker = self.folder.read(f"{kind}/{key}/DONE")
        if marker is None or (_record(marker) or {}).get("attempt") != attempt:
            return
        note = {"kind": kind, "key": key, "attempt": attempt, "reason": reason, "time": time.time()}
        note["marker"] = marker.decode(errors="replace")
        name = f"{SET_ASIDE}/{kind}/{key}-{attempt or self.attempt()}.json"
        self.folder.write(name, json.dumps(note, sort_keys=True).encode())
        self.folder.remove(f"{kind}/{key}/DONE")

    def damage(self) -> list[Record]:
        """What was set aside: kind, key, attempt, reason, time and the marker."""
        texts = (self.folder.read(file.name) for file in self.folder.files(SET_ASIDE) if file.name.endswith(".json"))
        return sorted((json.loads(text) for text in texts if text), key=lambda note: note["time"])

    def _compare(self, folder: Path, record: Record) -> None:
        """Raises Damaged, once the entry is set aside, where a file is not what was published."""
        reason = difference(folder, record["checksums"])
        if reason:
            self.set_aside(record["kind"], record["key"], record["attempt"], reason)
            raise Damaged(record["kind"], record["key"], reason)

    def _copied(self, record: Record, compare: bool) -> Path:
        """The files of an entry in this machine's cache. A copy that was altered there is made again."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fulcrum" / "store"
        name = f"{record['kind']}/{record['key']}/{record['attempt']}"
        if str(cache / name) in _sound:
            return cache / name
        if not (cache / name).exists() or (compare and difference(cache / name, record["checksums"])):
            shutil.rmtree(cache / name, ignore_errors=True)
            self._copy(name, cache, record, compare)
        if compare:
            _sound.add(str(cache / name))
        return cache / name

    def _copy(self, name: str, cache: Path, record: Record, compare: bool) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache))
        try:
            if record["checksums"]:
                self.folder.get(name, partial)
            if compare:
                self._compare(partial, record)
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            partial.rename(cache / name)
        except OSError:
            if not (cache / name).exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def difference(folder: Path, checksums: Mapping[str, str]) -> str:
    """What differs between the files of a folder and their SHA-256 by relative path; empty where nothing does."""
    for name, expected in checksums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_digest(folder / name) != expected:
            return f"{name} was altered"
    return ""


def _record(text: bytes) -> Record | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(record, dict) and {"kind", "key", "attempt", "checksums"} <= record.keys()
    return record if whole else None
