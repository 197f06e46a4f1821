"""Reading a source: every row becomes a conversation or an entry in quarantine, and none is dropped silently."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data.config import Format, SourceConfig
from data.fingerprint import digest, folder_digest
from data.formats import BadRow, Conversation, conversation
from data.toy import problems

TOY = "toy:"
TOY_ROWS = 10_000


class SourceUnusable(ValueError):
    """A source that cannot be read at all; the message says why and what to do."""


@dataclass
class Parsed:
    """What a source holds: rows in = conversations + quarantined. `places` says where each conversation stood."""

    conversations: list[Conversation] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.conversations) + len(self.quarantined)


def parse(source: SourceConfig) -> Parsed:
    """All rows of a source. Raises SourceUnusable where the source itself cannot be opened or read to its end."""
    parsed = Parsed()
    try:
        for place, row in islice(_rows(source), source.limit):
            _take(parsed, place, row, source.format)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise SourceUnusable(f"{source.path}: cannot be read ({error}); repair it or give another path") from error
    return parsed


def _take(parsed: Parsed, place: str, row: Any, format: Format) -> None:
    try:
        if isinstance(row, BadRow):
            raise row
        parsed.conversations.append(conversation(row, format))
        parsed.places.append(place)
    except BadRow as bad:
        shown = None if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=True, default=str)[:500]
        parsed.quarantined.append(quarantined(place, bad, shown))


def quarantined(place: str, bad: BadRow, row: str | None = None) -> dict[str, Any]:
    """An entry of the quarantine."""
    return {"place": place, "reason": bad.reason, "detail": str(bad), "row": row}


def fingerprint(source: SourceConfig) -> str:
    """Names the content of a source: the files' bytes, a hub id, or the toy generator and its size."""
    how = {"format": source.format, "limit": source.limit}
    if source.path.startswith(TOY):
        return digest({**how, "toy": source.path, "version": problems.VERSION, "rows": source.limit or TOY_ROWS})
    path = Path(source.path)
    return digest({**how, "files": folder_digest(path)} if path.exists() else {**how, "hub": source.path})


def exists(path: str) -> bool:
    """Whether a path names a toy ability, a local file or folder, or could be a hub id (`owner/name`)."""
    if path.startswith(TOY):
        return path.removeprefix(TOY) in problems.ABILITIES
    return Path(path).exists() or looks_like_hub_id(path)


def looks_like_hub_id(path: str) -> bool:
    """`owner/name` without an ending or a leading dot, slash or tilde."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and path[0] not in "./~" and not Path(path).suffix


def _rows(source: SourceConfig) -> Iterator[tuple[str, Any]]:
    """Pairs of a place ("file:line") and a row, or the BadRow that stands there."""
    if source.path.startswith(TOY):
        made = problems.items(source.path.removeprefix(TOY), "train", source.limit or TOY_ROWS)
        yield from ((f"{source.path}:{i}", {"messages": list(item.messages)}) for i, item in enumerate(made, 1))
        return
    path = Path(source.path)
    if not path.exists():
        yield from _hub_rows(source.path)
        return
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if reader(p))
    if not files:
        raise ValueError(f"{path}: no json, jsonl, jsonl.gz, parquet or csv file in this folder")
    for file in files:
        read = reader(file)
        if read is None:
            raise ValueError(f"{file}: unknown kind of file; use json, jsonl, jsonl.gz, parquet or csv")
        yield from ((f"{file.name}:{line}", row) for line, row in read(file))


def _hub_rows(hub_id: str) -> Iterator[tuple[str, Any]]:
    import datasets  # slow to import, and only hub ids need it

    try:
        rows = datasets.load_dataset(hub_id, split="train")
    except Exception as error:  # the hub client raises many kinds
        raise SourceUnusable(f"{hub_id}: no such folder, and not to be had from the hub: {error}") from error
    for i, row in enumerate(rows, 1):
        yield f"{hub_id}:{i}", row


Reader = Callable[[Path], Iterator[tuple[int, Any]]]


def reader(path: Path) -> Reader | None:
    """The reader for a file's ending, None where there is none."""
    name = path.name.lower()
    return next((read for ending, read in READERS.items() if name.endswith(ending)), None)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers from 1 and rows; blank lines are skipped, a line that does not parse is a BadRow."""
    opened = gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")
    with opened as file:
        yield from ((number, _json_line(line)) for number, line in enumerate(file, 1) if line.strip())


def _json_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow("broken_utf8", str(error))
    except (ValueError, RecursionError) as error:
        return BadRow("unparsable_json", str(error))


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); use .jsonl for one object a line") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a JSON source is a list of rows, this is {type(rows).__name__}")
    yield from enumerate(rows, 1)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    rows = (row for batch in parquet.ParquetFile(path).iter_batches() for row in batch.to_pylist())
    yield from enumerate(rows, 1)


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from enumerate(csv.DictReader(file), 2)


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
