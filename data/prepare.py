"""Preparing a source: parsed, tokenised and kept in the store as Arrow, so that no other run, k or strategy does it again.

The entry `prepared/<key>` holds `data/` (columns `input_ids`, `labels`, `length`) and `quarantine.jsonl`; its record counts
rows, quarantined rows by reason, tokens and labelled tokens.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import sources
from data.config import SourceConfig
from data.fingerprint import digest
from data.store import Record, Store
from data.tokens import IGNORED, tokenise

if TYPE_CHECKING:
    from datasets import Dataset

KIND = "prepared"
VERSION = 1  # raise it when the same input gives other tokens


class TooManyBadRows(ValueError):
    """A source has more rows in quarantine than `data.max_bad_rows` allows."""


def prepared_key(source_fingerprint: str, base_fingerprint: str, max_length: int) -> str:
    """Names the tokens of a source under the tokenizer and template of a base model."""
    return digest({"source": source_fingerprint, "base": base_fingerprint, "length": max_length, "version": VERSION})


def prepare(
    source: SourceConfig, base_fingerprint: str, open_tokenizer: Callable[[], Any], max_length: int, store: Store
) -> Record:
    """The record of a prepared source, made now if the store does not have it. `open_tokenizer` is only called then."""
    key = prepared_key(sources.fingerprint(source), base_fingerprint, max_length)
    found = store.record(KIND, key)
    return found or _make(source, key, open_tokenizer(), max_length, store)


def refuse_bad_rows(name: str, record: Record, allowed: float) -> None:
    """Raises TooManyBadRows, with the reasons, the file and the way out, above the allowed share."""
    bad = sum(record["quarantined"].values())
    if bad > allowed * record["rows"]:
        reasons = ", ".join(f"{reason} {number}" for reason, number in record["quarantined"].items())
        raise TooManyBadRows(
            f"sources.{name}: {bad} of {record['rows']} rows are unusable ({reasons}); see {record['quarantine']}; "
            f"repair the file or raise data.max_bad_rows above {bad / record['rows']:.3g}"
        )


def load(key: str, store: Store) -> "Dataset":
    """The prepared rows, memory-mapped."""
    from datasets import load_from_disk

    return load_from_disk(str(store.fetch(KIND, key) / "data"))


def _make(source: SourceConfig, key: str, tokenizer: Any, max_length: int, store: Store) -> Record:
    from datasets import Dataset, Features, Sequence, Value, disable_progress_bars

    disable_progress_bars()
    parsed = sources.parse(source)
    columns = Features({"input_ids": Sequence(Value("int32")), "labels": Sequence(Value("int32")), "length": Value("int32")})
    record: Record = {"source": source.path, "rows": parsed.rows}
    with store.writing(KIND, key, record) as folder:
        rows = [_row(tokenizer, messages, max_length) for messages in parsed.conversations]
        kept = [row for row in rows if row is not None]
        Dataset.from_list(kept, features=columns).save_to_disk(str(folder / "data"))
        _write_lines(folder / "quarantine.jsonl", parsed.quarantined)
        reasons = Counter(entry["reason"] for entry in parsed.quarantined)
        # An answer that lies wholly beyond max_length leaves nothing to learn from.
        reasons.update({"answer_beyond_max_length": len(rows) - len(kept)} if len(kept) < len(rows) else {})
        record |= {
            "used": len(kept),
            "quarantined": dict(reasons),
            "quarantine": str(folder / "quarantine.jsonl"),
            "tokens": sum(row["length"] for row in kept),
            "truncated": sum(row["length"] == max_length for row in kept),
        }
    return record


def _row(tokenizer: Any, messages: list[dict[str, str]], max_length: int) -> dict[str, Any] | None:
    example = tokenise(tokenizer, messages, max_length)
    if all(label == IGNORED for label in example.labels[1:]):
        return None
    return {"input_ids": example.input_ids, "labels": example.labels, "length": len(example.input_ids)}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
