"""Sources: what their rows are read from, and what names their content."""

import csv
import hashlib
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data import readers
from data.config import FieldTagger, SourceConfig, Tagger
from data.fingerprint import cached, digest, folder_digest
from data.formats import BadRow, rows_of
from data.toy import problems
from data.words import HeldOut

TOY = "toy:"
TOY_ROWS = 10_000
UNREADABLE = (OSError, EOFError, ValueError, csv.Error, zlib.error, pa.ArrowException)
"""What a file, bucket or archive that cannot be read to its end raises."""


class SourceUnusable(ValueError):
    """A source that cannot be read at all; the message says why and what to do."""


def rows(source: SourceConfig) -> Iterator[tuple[str, Any]]:
    """Pairs of a place ("file:line") and a row, or the BadRow that stands there.

    Raises SourceUnusable where the source cannot be opened or read to its end.
    """
    try:
        yield from islice(_each_answer(source), source.limit)
    except UNREADABLE as error:
        if isinstance(error, SourceUnusable):
            raise
        raise SourceUnusable(f"{source.path}: cannot be read ({error}); repair it or give another path") from error


def _each_answer(source: SourceConfig) -> Iterator[tuple[str, Any]]:
    for place, row in _rows(source):
        answers = rows_of(row, source.format)
        yield from ((f"{place}#{i}" if len(answers) > 1 else place, one) for i, one in enumerate(answers, 1))


def content(source: SourceConfig) -> str:
    """Names the conversations that a source holds: by the files' bytes wherever they lie, a hub id, or the toy generator."""
    how: dict[str, Any] = {"format": source.format, "limit": source.limit, "duplicates": keeps_duplicates(source)}
    if isinstance(source.tagger, FieldTagger):
        how["tags"] = source.tagger.field
    if source.path.startswith(TOY):
        return digest({**how, "toy": source.path, "version": problems.VERSION, "rows": source.limit or TOY_ROWS})
    if _in_bucket(source.path):
        return digest({**how, "files": _bucket_digest(source.path)})
    path = Path(source.path)
    if path.exists():
        return digest({**how, "files": folder_digest(path)})
    return digest({**how, "hub": source.path, "split": source.split, "revision": source.revision})


def fingerprint(source: SourceConfig, held_out: HeldOut | None = None) -> str:
    """Names the rows that a source gives to training: its content without what is left out by tag or held out."""
    left_out: dict[str, Any] = {}
    if source.tagger:
        left_out["tags"] = [tagger(source.tagger), source.exclude_tags]
    if held_out:
        left_out["held_out"] = held_out.plain()
    return digest([content(source), left_out]) if left_out else content(source)


def tagger(config: Tagger) -> dict[str, Any]:
    """What names a tagger: everything that its tags depend on."""
    named = config.model_dump(exclude={"batch_size", "device"})
    path = Path(named.get("path", ""))
    return {**named, "path": folder_digest(path)} if "path" in named and path.exists() else named


def keeps_duplicates(source: SourceConfig) -> bool:
    """Whether a repeated conversation is a row like any other."""
    return source.duplicates == "keep" or source.path.startswith(TOY)


def exists(path: str) -> bool:
    """Whether a path names a toy ability, a local file or folder, or could be in a bucket or a hub id (`owner/name`)."""
    if path.startswith(TOY):
        return path.removeprefix(TOY) in problems.ABILITIES
    return _in_bucket(path) or Path(path).exists() or looks_like_hub_id(path)


def looks_like_hub_id(path: str) -> bool:
    """`owner/name` without an ending or a leading dot, slash or tilde."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and path[0] not in "./~" and not Path(path).suffix


def reader(path: Path) -> readers.Reader | None:
    """The reader for a file's ending, None where there is none."""
    return readers.reader(path.name)


def read_jsonl(path: Path) -> readers.Rows:
    """Line numbers and rows of a local file of JSON lines, .gz or not; a line that does not parse is a BadRow."""
    with path.open("rb") as stream:
        yield from readers.READERS[".jsonl.gz" if path.name.endswith(".gz") else ".jsonl"](stream)


def _rows(source: SourceConfig) -> Iterator[tuple[str, Any]]:
    if source.path.startswith(TOY):
        made = problems.items(source.path.removeprefix(TOY), "train", source.limit or TOY_ROWS)
        return ((f"{source.path}:{i}", {"messages": list(item.messages)}) for i, item in enumerate(made, 1))
    if not _in_bucket(source.path) and not Path(source.path).exists():
        return _hub_rows(source)
    return _file_rows(source.path)


def _file_rows(path: str) -> Iterator[tuple[str, Any]]:
    system, _ = readers.location(path)
    found = readers.found(path)
    if not found:
        raise ValueError("no json, jsonl, jsonl.gz, parquet or csv file in this folder")
    for info in found:
        read = readers.reader(info.base_name)
        if read is None:
            raise ValueError(f"{info.base_name}: unknown kind of file; use json, jsonl, jsonl.gz, parquet or csv")
        try:
            with readers.opened(system, info.path) as stream:
                yield from ((f"{info.base_name}:{line}", row) for line, row in read(stream))
        except UNREADABLE as error:
            raise ValueError(f"{info.base_name}: {error}") from error


def _hub_rows(source: SourceConfig) -> Iterator[tuple[str, Any]]:
    import datasets  # slow to import, and only hub ids need it

    try:
        found = datasets.load_dataset(source.path, split=source.split, revision=source.revision)
    except Exception as error:  # the hub client raises many kinds
        raise SourceUnusable(f"{source.path}: no such file or folder, and not to be had from the hub: {error}") from error
    for i, row in enumerate(found, 1):
        yield f"{source.path}:{i}", row


def _in_bucket(path: str) -> bool:
    return "://" in path


def _bucket_digest(path: str) -> str:
    """As of a local file or folder with these files: where the same bytes lie does not matter."""
    try:
        system, inside = readers.location(path)
        found = readers.found(path)
        named = [[i.path[len(inside) :].lstrip("/") or ".", _object_digest(system, path, i)] for i in found]
    except UNREADABLE as error:
        raise SourceUnusable(f"{path}: cannot be read ({error}); check the address and the credentials") from error
    return digest(named)


def _object_digest(system: Any, path: str, info: Any) -> str:
    def read() -> str:
        with readers.opened(system, info.path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    return cached([path, info.path, info.size, info.mtime_ns], read)


def shown(row: Any) -> str | None:
    """A row as the quarantine shows it."""
    return None if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=True, default=str)[:500]
