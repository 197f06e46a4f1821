"""A folder on a local disk or in a bucket: the few operations that the store and the folder of a run are made of.

A file is written whole or not at all. There is no append and no rename, because an object store has neither.
"""

import copy
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs


@dataclass(frozen=True)
class File:
    """A file below a folder: its name relative to it, its bytes and the Unix time of its last change."""

    name: str
    size: int
    time: float


class Folder:
    """The folder at a local path or at a URI that pyarrow knows (s3://, gs://, file://)."""

    def __init__(self, root: str | Path) -> None:
        self._fs: pafs.FileSystem
        root = str(root).removeprefix("file://")
        if "://" in root:
            self._fs, self._base = pafs.FileSystem.from_uri(root)
            self._root = root.rstrip("/")
        else:
            self._fs, self._base = pafs.LocalFileSystem(), str(Path(root).resolve())
            self._root = self._base
        self.local = isinstance(self._fs, pafs.LocalFileSystem)

    def __str__(self) -> str:
        return self._root

    @property
    def name(self) -> str:
        """The last part of the folder's name."""
        return self._root.rpartition("/")[2]

    def __truediv__(self, name: str) -> "Folder":
        below = copy.copy(self)
        below._base, below._root = f"{self._base}/{name}", f"{self._root}/{name}"
        return below

    def path(self, name: str = "") -> Path:
        """Where a file of a local folder lies."""
        assert self.local, f"{self} is not on this machine"
        return Path(self._base) / name

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        try:
            with self._fs.open_input_stream(self._at(name)) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, text: bytes) -> None:
        """Write a file; who reads it meanwhile sees the old or the new content whole."""
        if self.local:
            write_atomically(self.path(name), text)
            return
        with self._fs.open_output_stream(self._at(name)) as stream:
            stream.write(text)

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file as it lies there, 64 hex digits; None where there is none."""
        found = hashlib.sha256()
        try:
            with self._fs.open_input_stream(self._at(name)) as stream:
                while block := stream.read(1 << 22):
                    found.update(block)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.hexdigest()

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there."""
        return self._fs.get_file_info(self._at(name)).type != pafs.FileType.NotFound

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens where there is none."""
        info = self._fs.get_file_info(self._at(name))
        if info.type == pafs.FileType.Directory:
            self._fs.delete_dir(self._at(name))
        elif info.type == pafs.FileType.File:
            self._fs.delete_file(self._at(name))

    def names(self, under: str = "") -> list[str]:
        """The names of the files and folders directly below, sorted."""
        return sorted(info.base_name for info in self._infos(under, recursive=False))

    def files(self, under: str = "") -> Iterator[File]:
        """All files below, at any depth."""
        for info in self._infos(under, recursive=True):
            if info.type == pafs.FileType.File:
                yield File(info.path[len(self._base) + 1 :], info.size, info.mtime_ns / 1e9)

    def put(self, path: Path, name: str) -> None:
        """Copy a local file to a name below, durably."""
        if self.local:
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            if self.path(name) != path.resolve():
                shutil.copy(path, self.path(name))
            flush(self.path(name))
        else:
            pafs.copy_files(str(path), self._at(name), destination_filesystem=self._fs)

    def get(self, name: str, path: Path) -> None:
        """Copy a folder below to a local one."""
        pafs.copy_files(self._at(name), str(path), source_filesystem=self._fs)

    def _infos(self, under: str, recursive: bool) -> list[pafs.FileInfo]:
        return list(self._fs.get_file_info(pafs.FileSelector(self._at(under), allow_not_found=True, recursive=recursive)))

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base


def write_atomically(path: Path, text: bytes) -> None:
    """Write a file so that a reader sees the old or the new content whole, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_bytes(text)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
