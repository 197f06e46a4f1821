"""A source without what its tags exclude, written as a new source with a record of what was dropped and why.

OUT/rows.parquet            the conversations that stay: place, messages, tags; read it with format messages
OUT/record/summary.json     the tagger, the pattern, how many rows went where
OUT/record/dropped.jsonl    each dropped conversation: place, tags, the tags that matched, its question
OUT/record/quarantine.jsonl rows that could not be read
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from data import arrow, conversations, filters
from data.config import SourceConfig
from data.conversations import Tell, asked, silent
from data.store import Store

SCHEMA = pa.schema([conversations.SCHEMA.field(name) for name in ("place", "messages", "tags")])


def write(source: SourceConfig, out: Path, store: Store, tell: Tell = silent) -> dict[str, Any]:
    """The summary of a filtered source, once it lies in `out`. Raises SourceUnusable."""
    parsed = conversations.parse(source, store, tell)
    tags = iter(filters.tags_of(source, parsed, store, tell))
    record = out / "record"
    record.mkdir(parents=True)
    shutil.copy(store.fetch(conversations.KIND, parsed["key"]) / "quarantine.jsonl", record)
    kept, reasons = 0, Counter[str]()
    with parquet.ParquetWriter(out / "rows.parquet", SCHEMA) as writer, (record / "dropped.jsonl").open("w") as dropped:
        for batch in arrow.batches(conversations.rows(parsed, store)):
            rows = [row | {"tags": next(tags)} for row in batch.select(["place", "messages"]).to_pylist()]
            matched = [filters.matching(row["tags"], source.exclude_tags or "") for row in rows]
            good = [row for row, found in zip(rows, matched, strict=True) if not found]
            writer.write_table(pa.Table.from_pylist(good, schema=SCHEMA))
            for row, found in zip(rows, matched, strict=True):
                if found:
                    reasons.update(found)
                    dropped.write(json.dumps(_drop(row, found)) + "\n")
            kept += len(good)
    summary = {
        "source": source.model_dump(mode="json"),
        "rows": parsed["rows"],
        "kept": kept,
        "dropped": parsed["used"] - kept,
        "quarantined": parsed["quarantined"],
        "tags_that_matched": dict(reasons.most_common()),
    }
    (record / "summary.json").write_text(json.dumps(summary, indent=2))
    return summary


def _drop(row: dict[str, Any], matched: list[str]) -> dict[str, Any]:
    return {"place": row["place"], "tags": row["tags"], "matched": matched, "question": asked(row["messages"])[:500]}
