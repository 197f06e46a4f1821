"""A source as conversations: the rows that parse, in one typed Arrow schema, and a quarantine of those that do not.

The store's entry `conversations/<key>` holds `rows/` (Arrow) and `quarantine.jsonl`. No tokenizer has been near it, so every
model, length and filter starts from the same entry. Rows in = conversations + quarantined: none is dropped silently.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from data import arrow, sources
from data.config import FieldTagger, SourceConfig
from data.fingerprint import digest
from data.formats import BadRow, Conversation, conversation
from data.store import Record, Store
from data.words import question_id

KIND = "conversations"
VERSION = 1  # raise it when the same files give other conversations
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [("place", pa.string()), ("messages", pa.list_(MESSAGE)), ("question", pa.int64()), ("tags", pa.list_(pa.string()))]
)
"""`place` is "file:line", `question` names the words of the first user message, `tags` come from a field of the row."""
BATCH_ROWS, BATCH_LETTERS = 1000, 1 << 20
TELL_EVERY = 20_000

Tell = Callable[[str], None]


def silent(_: str) -> None:
    """Tells nobody."""


def key_of(source: SourceConfig) -> str:
    """Names the conversations of a source."""
    return digest({"source": sources.content(source), "version": VERSION})


def parse(source: SourceConfig, store: Store, tell: Tell = silent) -> Record:
    """The record of a source's conversations, read now if the store does not have them.

    Raises SourceUnusable where the source cannot be opened or read to its end.
    """
    key = key_of(source)
    found = store.record(KIND, key) if store.sound(KIND, key) else None
    if found is None:
        record: Record = {"source": source.path}
        with store.writing(KIND, key, record) as folder:
            record |= _write(source, folder, tell)
        found = store.record(KIND, key)
    assert found is not None
    return found


def rows(record: Record, store: Store) -> Path:
    """The folder with the conversations' Arrow files."""
    return store.fetch(KIND, record["key"]) / "rows"


class Quarantine:
    """Rows that cannot be used: place, reason, detail and the row itself, one JSON object a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.reasons: Counter[str] = Counter()

    def put(self, place: str, bad: BadRow, row: str | None) -> None:
        self.reasons[bad.reason] += 1
        entry = {"place": place, "reason": bad.reason, "detail": str(bad), "row": row}
        self._file.write(json.dumps(entry) + "\n")


def _write(source: SourceConfig, folder: Path, tell: Tell) -> Record:
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as file, arrow.Writer(folder / "rows", SCHEMA) as writer:
        quarantine, used = Quarantine(file), 0
        for batch in batched(_good(source, quarantine)):
            writer.write(batch)
            if (used + len(batch)) // TELL_EVERY > used // TELL_EVERY:
                tell(f"{used + len(batch):,} rows read")
            used += len(batch)
    bad = dict(sorted(quarantine.reasons.items()))
    return {"rows": used + sum(bad.values()), "used": used, "quarantined": bad}


def _good(source: SourceConfig, quarantine: Quarantine) -> Iterator[dict[str, Any]]:
    """The rows of the schema; every other row goes into quarantine."""
    first_seen: dict[bytes, str] | None = None if sources.keeps_duplicates(source) else {}
    for place, row in sources.rows(source):
        try:
            if isinstance(row, BadRow):
                raise row
            messages = conversation(row, source.format)
            if first_seen is not None:
                _refuse_duplicate(messages, place, first_seen)
            yield {"place": place, "messages": messages, "tags": _tags(row, source)}
        except BadRow as bad:
            quarantine.put(place, bad, sources.shown(row))


def _refuse_duplicate(messages: Conversation, place: str, first_seen: dict[bytes, str]) -> None:
    said = "".join(f"{message['role']} {len(message['content'])} {message['content']}" for message in messages)
    earlier = first_seen.setdefault(hashlib.blake2b(said.encode(), digest_size=16).digest(), place)
    if earlier != place:
        raise BadRow("duplicate", f"the same conversation as {earlier}")


def _tags(row: Any, source: SourceConfig) -> list[str] | None:
    """The tags in a row's field, None where no field is asked for. Raises BadRow where the field holds none."""
    if not isinstance(source.tagger, FieldTagger):
        return None
    found = row.get(source.tagger.field)
    listed = found if isinstance(found, list) else [found]
    tags: list[Any] = [entry.get("tag") if isinstance(entry, dict) else entry for entry in listed]
    if not all(isinstance(tag, str) for tag in tags):
        raise BadRow("no_tags", f"field {source.tagger.field!r} is neither text nor a list of texts")
    return tags


def batched(good: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Record batches of like size; where one ends depends on the rows alone."""
    held: list[dict[str, Any]] = []
    letters = 0
    for row in good:
        held.append(row)
        letters += sum(len(message["content"]) for message in row["messages"])
        if len(held) >= BATCH_ROWS or letters >= BATCH_LETTERS:
            yield _batch(held)
            held, letters = [], 0
    if held:
        yield _batch(held)


def _batch(held: list[dict[str, Any]]) -> pa.RecordBatch:
    columns = {
        "place": [row["place"] for row in held],
        "messages": [row["messages"] for row in held],
        "question": [question_id(asked(row["messages"])) for row in held],
        "tags": [row["tags"] for row in held],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def asked(messages: Conversation) -> str:
    """The question of a conversation: its first user message."""
    return next(message["content"] for message in messages if message["role"] == "user")
