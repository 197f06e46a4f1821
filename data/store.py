"""The store: content-addressed artefacts, published atomically.

An entry is `<root>/<kind>/<key>/<attempt>/...` plus `DONE`, a JSON record that names the attempt and is written last.
Nothing without `DONE` exists. Two writers of one key waste time and never corrupt: each has an attempt of its own, and
whichever marker is written last wins. The same on a local disk and on an object store, which has no rename.
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

import pyarrow.fs as pafs

from data.fingerprint import file_digest

Record = dict[str, Any]


class Store:
    """Artefacts below `root`, a local path or a URI that pyarrow knows (s3://, gs://, file://)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs: pafs.FileSystem
        self._base: str
        if "://" in root:
            self._fs, self._base = pafs.FileSystem.from_uri(root)
        else:
            self._fs, self._base = pafs.LocalFileSystem(), str(Path(root).resolve())
        self._local = isinstance(self._fs, pafs.LocalFileSystem)

    def record(self, kind: str, key: str) -> Record | None:
        """The `DONE` record of an entry, or None where it has not been published."""
        try:
            with self._fs.open_input_stream(f"{self._entry(kind, key)}/DONE") as stream:
                return dict(json.loads(stream.read()))
        except (FileNotFoundError, NotADirectoryError):
            return None

    @property
    def local(self) -> bool:
        """Whether entries are files of this machine, and scratch folders their own place."""
        return self._local

    def keys(self, kind: str, prefix: str = "") -> list[str]:
        """The keys of a kind that begin with a prefix, also those of attempts that were never published."""
        selector = pafs.FileSelector(f"{self._base}/{kind}", allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector) if info.base_name.startswith(prefix))

    def records(self, kind: str, prefix: str = "") -> list[Record]:
        """The records of the published entries of a kind whose keys begin with a prefix."""
        found = (self.record(kind, key) for key in self.keys(kind, prefix))
        return [record for record in found if record is not None]

    def fetch(self, kind: str, key: str) -> Path:
        """A local folder with the entry's files; from an object store they are copied once per machine.

        Raises KeyError where the entry has not been published.
        """
        record = self.record(kind, key)
        if record is None:
            raise KeyError(f"{kind}/{key} is not in the store {self.root}")
        remote = f"{self._entry(kind, key)}/{record['attempt']}"
        return Path(remote) if self._local else self._copied(remote, record)

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
        if not self._local:
            shutil.rmtree(folder)

    def attempt(self) -> str:
        """A fresh name for an attempt at an entry. Processes that write one entry together share it."""
        return f"{int(time.time())}-{uuid.uuid4().hex[:8]}"

    def scratch(self, kind: str, key: str, attempt: str) -> Path:
        """A local folder to write the files of an attempt into: already their place on a local disk, else a temporary one."""
        folder = Path(f"{self._entry(kind, key)}/{attempt}") if self._local else Path(tempfile.mkdtemp(prefix="fulcrum-"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, kind: str, key: str, attempt: str, folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
        """Make files of a scratch folder durable, all or the named ones; their SHA-256 by relative path."""
        files = [folder / name for name in names] if names is not None else sorted(p for p in folder.rglob("*") if p.is_file())
        for path in files:
            if self._local:
                _flush(path)
            else:
                target = f"{self._entry(kind, key)}/{attempt}/{path.relative_to(folder).as_posix()}"
                pafs.copy_files(str(path), target, destination_filesystem=self._fs)
        return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}

    def publish(self, kind: str, key: str, attempt: str, record: Record, checksums: Mapping[str, str]) -> None:
        """Write the marker of an attempt whose files are all put: from here on the entry exists."""
        done = {**record, "kind": kind, "key": key, "attempt": attempt, "checksums": dict(checksums), "time": time.time()}
        self._mark(self._entry(kind, key), json.dumps(done, sort_keys=True).encode())

    def delete(self, kind: str, key: str) -> None:
        """Remove an entry, its marker first, so that no reader finds half of one. Nothing happens where there is none."""
        entry = self._entry(kind, key)
        if self._fs.get_file_info(f"{entry}/DONE").type != pafs.FileType.NotFound:
            self._fs.delete_file(f"{entry}/DONE")
        if self._fs.get_file_info(entry).type != pafs.FileType.NotFound:
            self._fs.delete_dir(entry)

    def _mark(self, entry: str, text: bytes) -> None:
        if not self._local:  # an object store's put is atomic
            with self._fs.open_output_stream(f"{entry}/DONE") as stream:
                stream.write(text)
            return
        write_atomically(Path(entry) / "DONE", text)

    def _copied(self, remote: str, record: Record) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fulcrum" / "store"
        folder = cache / record["kind"] / record["key"] / record["attempt"]
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=cache))
            pafs.copy_files(remote, str(partial), source_filesystem=self._fs)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(folder)
            except OSError:  # another process was faster
                shutil.rmtree(partial)
        return folder

    def _entry(self, kind: str, key: str) -> str:
        return f"{self._base}/{kind}/{key}"


def write_atomically(path: Path, text: bytes) -> None:
    """Write a file so that a reader sees the old or the new content whole, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_bytes(text)
    _flush(partial)
    partial.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
