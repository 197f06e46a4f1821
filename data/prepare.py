"""Preparing a source: tokenised and kept in the store as Arrow, so that no other run, k or strategy does it again.

The entry `prepared/<key>` holds `rows/` (columns `input_ids`, `labels`, `length`, `question`) and `quarantine.jsonl`. Its
record counts rows, and where each went: used, quarantined by reason, excluded by tag, held out for evaluation. It is the
same to the byte whatever the number of processes.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data import arrow, conversations, filters, parallel, sources
from data.config import SourceConfig
from data.conversations import Quarantine, Tell, silent
from data.fingerprint import digest
from data.formats import BadRow
from data.mixture import Table
from data.store import Record, Store
from data.tokens import Tokens, tokenise
from data.words import HeldOut

KIND = "prepared"
VERSION = 2  # raise it when the same input gives other tokens
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("question", pa.int64()),
    ]
)
BATCHES_PER_PROCESS = 4  # of some megabyte of text: less is done before a process has started


class TooManyBadRows(ValueError):
    """A source has more rows in quarantine than `data.max_bad_rows` allows."""


def prepared_key(source_fingerprint: str, base_fingerprint: str, max_length: int) -> str:
    """Names the tokens of a source under the tokenizer and template of a base model."""
    versions = [VERSION, conversations.VERSION]
    return digest({"source": source_fingerprint, "base": base_fingerprint, "length": max_length, "version": versions})


def prepare(
    source: SourceConfig,
    base_fingerprint: str,
    open_tokenizer: Callable[[], Any],
    max_length: int,
    store: Store,
    held_out: HeldOut | None = None,
    tell: Tell = silent,
    processes: int | None = None,
) -> Record:
    """The record of a prepared source, made now if the store does not have it.

    `open_tokenizer` is called only then. At most `processes` tokenise, None for one a core. Raises SourceUnusable.
    """
    key = prepared_key(sources.fingerprint(source, held_out), base_fingerprint, max_length)
    found = store.record(KIND, key) if store.sound(KIND, key) else None
    if found is None:
        parsed = conversations.parse(source, store, tell)
        record: Record = {"source": source.path}
        with store.writing(KIND, key, record) as folder:
            shutil.copy(store.fetch(conversations.KIND, parsed["key"]) / "quarantine.jsonl", folder)
            skipped = left_out(source, parsed, store, held_out, tell)
            work = partial(_tokenised, open_tokenizer(), max_length)
            record |= _write(parsed, conversations.rows(parsed, store), folder, work, skipped, processes, tell)
        found = store.record(KIND, key)
    assert found is not None
    return found


def quarantine_file(record: Record, store: Store) -> Path:
    """The file with the rows that cannot be used."""
    return store.fetch(KIND, record["key"]) / "quarantine.jsonl"


def refuse_bad_rows(name: str, record: Record, allowed: float, store: Store) -> None:
    """Raises TooManyBadRows, with the reasons, the file and the way out, above the allowed share."""
    bad, rows, file = sum(record["quarantined"].values()), record["rows"], quarantine_file(record, store)
    reasons = ", ".join(f"{reason} {number}" for reason, number in record["quarantined"].items())
    if bad > allowed * rows:
        raise TooManyBadRows(
            f"sources.{name}: {bad} of {rows} rows are unusable ({reasons}); see {file}; "
            f"repair the file or raise data.max_bad_rows above {bad / rows:.3g}"
        )
    if not record["used"]:
        raise TooManyBadRows(f"sources.{name}: none of {rows} rows can be used ({reasons or where_rows_went(record)})")


def where_rows_went(record: Record) -> str:
    """The rows of a source that training does not see, in words; "" where it sees all."""
    bad = sum(record["quarantined"].values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in record["quarantined"].items())
    told = [f"{bad} in quarantine ({reasons})"] if bad else []
    told += [f"{record['excluded']} excluded by tag"] if record["excluded"] else []
    told += [f"{record['held_out']} held out for evaluation"] if record["held_out"] else []
    return ", ".join(told)


class Prepared:
    """The rows of a prepared source, memory-mapped."""

    def __init__(self, key: str, store: Store) -> None:
        rows = arrow.table(store.fetch(KIND, key) / "rows")
        self.table = Table(rows["length"].to_numpy(), rows["question"].to_numpy())
        # Batches and not the table: Arrow's take would copy all of a column of lists for a few of its rows.
        self._batches = rows.select(["input_ids", "labels"]).to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches])

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, wanted: Iterable[int]) -> list[dict[str, Any]]:
        """The rows of some numbers, in their order, with `input_ids`, `labels` and `length`."""
        return [self._row(int(number)) for number in wanted]

    def _row(self, number: int) -> dict[str, Any]:
        place = int(np.searchsorted(self._ends, number, side="right"))
        batch = self._batches[place]
        within = number - int(self._ends[place]) + len(batch)
        ids, labels = (batch[name][within].values.to_numpy().tolist() for name in ("input_ids", "labels"))
        return {"input_ids": ids, "labels": labels, "length": len(ids)}


@dataclass(frozen=True)
class LeftOut:
    """Numbers of the conversations of a source that are not trained on: by tag, and held out."""

    excluded: frozenset[int] = frozenset()
    held_out: frozenset[int] = frozenset()

    @property
    def rows(self) -> frozenset[int]:
        return self.excluded | self.held_out


def left_out(source: SourceConfig, parsed: Record, store: Store, held_out: HeldOut | None, tell: Tell = silent) -> LeftOut:
    """Which of a source's conversations training does not see."""
    excluded = filters.excluded(source, parsed, store, tell)
    if held_out is None:
        return LeftOut(excluded)
    questions = arrow.table(conversations.rows(parsed, store))["question"].to_numpy()
    found = np.flatnonzero(np.isin(questions, held_out.plain()))
    return LeftOut(excluded, frozenset(found.tolist()) - excluded)


@dataclass(frozen=True)
class _Task:
    """A batch of conversations by its place, and the positions in it that are used."""

    file: str
    batch: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class _Done:
    """A batch of tokens; the rows that cannot be used, as (place, BadRow, row); how many were cut."""

    batch: pa.RecordBatch
    bad: tuple[tuple[str, BadRow, str], ...]
    cut: int


_Work = Callable[[_Task], _Done]


def _write(
    parsed: Record, rows: Path, folder: Path, work: _Work, skipped: LeftOut, processes: int | None, tell: Tell
) -> Record:
    tasks = list(_tasks(rows, skipped.rows))
    workers = max(1, min(processes or parallel.cores(), len(tasks) // BATCHES_PER_PROCESS))
    used, tokens, cut, read = 0, 0, 0, 0
    with (folder / "quarantine.jsonl").open("a", encoding="utf-8") as file, arrow.Writer(folder / "rows", SCHEMA) as writer:
        quarantine = Quarantine(file)
        for task, done in zip(tasks, parallel.in_order(work, tasks, workers), strict=True):
            writer.write(done.batch)
            for place, bad, row in done.bad:
                quarantine.put(place, bad, row)
            used, cut = used + len(done.batch), cut + done.cut
            tokens += int(np.sum(done.batch["length"].to_numpy()))
            if (read + len(task.positions)) // conversations.TELL_EVERY > read // conversations.TELL_EVERY:
                tell(f"{read + len(task.positions):,} of {parsed['used']:,} rows tokenised")
            read += len(task.positions)
    quarantined = {**parsed["quarantined"], **quarantine.reasons}
    return {
        "rows": parsed["rows"],
        "used": used,
        "quarantined": dict(sorted(quarantined.items())),
        "excluded": len(skipped.excluded),
        "held_out": len(skipped.held_out),
        "tokens": tokens,
        "truncated": cut,
    }


def _tasks(rows: Path, skipped: frozenset[int]) -> Sequence[_Task]:
    tasks, start = [], 0
    for file, number in arrow.places(rows):
        size = len(arrow.batch(file, number))
        tasks.append(_Task(file, number, tuple(i for i in range(size) if start + i not in skipped)))
        start += size
    return tasks


def _tokenised(tokenizer: Any, max_length: int, task: _Task) -> _Done:
    batch = arrow.batch(task.file, task.batch).take(pa.array(task.positions, pa.int64()))
    places, talks = batch["place"].to_pylist(), batch["messages"].to_pylist()
    control = _control(tokenizer)
    spoken = [next((found for m in talk if (found := control.search(m["content"]))), None) for talk in talks]
    clean = [i for i, found in enumerate(spoken) if not found]
    results: list[Tokens | BadRow] = [BadRow("control_token", f"the text holds {found and found[0]!r}") for found in spoken]
    for i, result in zip(clean, tokenise(tokenizer, [talks[i] for i in clean], max_length), strict=True):
        results[i] = result
    good = [i for i, result in enumerate(results) if isinstance(result, Tokens)]
    bad = tuple((places[i], r, sources.shown(talks[i]) or "") for i, r in enumerate(results) if isinstance(r, BadRow))
    kept = [r for r in results if isinstance(r, Tokens)]
    return _Done(_batch(kept, batch["question"].take(pa.array(good, pa.int64()))), bad, sum(r.cut for r in kept))


def _control(tokenizer: Any) -> re.Pattern[str]:
    """Finds the special tokens: one in a text would end a turn or begin one, and be learned."""
    special = [re.escape(token) for token in tokenizer.all_special_tokens if token]
    return re.compile("|".join(special) or r"(?!)")


def _batch(kept: Sequence[Tokens], questions: pa.Array) -> pa.RecordBatch:
    lengths = np.array([len(one.input_ids) for one in kept], np.int32)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    none = np.zeros(0, np.int32)
    ids = np.concatenate([none, *(one.input_ids for one in kept)])
    labels = np.concatenate([none, *(one.labels for one in kept)])
    columns = [pa.ListArray.from_arrays(ends, pa.array(column)) for column in (ids, labels)]
    return pa.RecordBatch.from_arrays([*columns, pa.array(lengths), questions], schema=SCHEMA)
