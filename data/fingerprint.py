"""Names for content: hashes of plain values, of files and of folders.

File hashes are cached by path, size and mtime, because a 26 GB model is asked for on every `plan`.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHED_FROM_BYTES = 1 << 24


def digest(value: Any) -> str:
    """Hash of a JSON-able value, independent of the order of its keys: 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    stat = path.stat()
    if stat.st_size < CACHED_FROM_BYTES:
        return _hash_file(path)
    return cached([str(path.resolve()), stat.st_size, stat.st_mtime_ns], lambda: _hash_file(path))


def cached(state: Any, compute: Callable[[], str]) -> str:
    """A digest that is computed once for each state: a name that changes with the content."""
    kept = _cache_folder() / digest(state)
    if kept.exists():
        return kept.read_text()
    found = compute()
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}")
    partial.write_text(found)
    partial.replace(kept)
    return found


def folder_digest(path: Path) -> str:
    """Hash of the names and contents of all files below a folder, or of the one file that `path` is."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return digest([[p.relative_to(path).as_posix(), file_digest(p)] for p in files])


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fulcrum" / "digests"
