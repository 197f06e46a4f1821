"""Preparing a source: parsed, tokenised and kept in the store as Arrow, so that no other run, k or strategy does it again.

The entry `prepared/<key>` holds `data/` (columns `input_ids`, `labels`, `length`) and `quarantine.jsonl`; its record counts
rows, quarantined rows by reason, tokens and rows that were cut.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from data import sources
from data.config import SourceConfig
from data.fingerprint import digest
from data.formats import BadRow, Conversation
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
    found = store.record(KIND, key) if store.sound(KIND, key) else None
    return found or _make(source, key, open_tokenizer(), max_length, store)


def refuse_bad_rows(name: str, record: Record, allowed: float) -> None:
    """Raises TooManyBadRows, with the reasons, the file and the way out, above the allowed share."""
    bad = sum(record["quarantined"].values())
    if not record["used"]:
        raise TooManyBadRows(f"sources.{name}: none of {record['rows']} rows can be used; see {record['quarantine']}")
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
        kept = list(_tokenised(parsed, tokenizer, max_length))
        Dataset.from_list(kept, features=columns).save_to_disk(str(folder / "data"))
        _write_lines(folder / "quarantine.jsonl", parsed.quarantined)
        record |= {
            "used": len(kept),
            "quarantined": dict(Counter(entry["reason"] for entry in parsed.quarantined)),
            "quarantine": str(folder / "quarantine.jsonl"),
            "tokens": sum(row["length"] for row in kept),
            "truncated": sum(row["length"] == max_length for row in kept),
        }
    return record


def _tokenised(parsed: sources.Parsed, tokenizer: Any, max_length: int) -> Iterator[dict[str, Any]]:
    """Rows that can be learned from; the others join the quarantine."""
    control = [token for token in tokenizer.all_special_tokens if token]
    for place, messages in zip(parsed.places, parsed.conversations, strict=True):
        try:
            yield _row(tokenizer, messages, max_length, control)
        except BadRow as bad:
            shown = json.dumps(messages, ensure_ascii=True)[:500]
            parsed.quarantined.append(sources.quarantined(place, bad, shown))


def _row(tokenizer: Any, messages: Conversation, max_length: int, control: list[str]) -> dict[str, Any]:
    spoken = [token for message in messages for token in control if token in message["content"]]
    if spoken:  # it would end a turn or begin one, and be learned
        raise BadRow("control_token", f"the text holds {spoken[0]!r}")
    try:
        example = tokenise(tokenizer, messages, max_length)
    except TemplateError as error:
        raise BadRow("refused_by_template", str(error)) from error
    if all(label == IGNORED for label in example.labels[1:]):
        raise BadRow("answer_beyond_max_length", f"no part of an answer lies within {max_length} tokens")
    return {"input_ids": example.input_ids, "labels": example.labels, "length": len(example.input_ids)}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
