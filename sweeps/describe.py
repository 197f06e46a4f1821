"""What a source holds and what a sweep would take from it, for a person to look at before anything is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from data import mixture, prepare
from data.prepare import Prepared
from data.store import Record, Store
from data.tokens import IGNORED
from sweeps import lineage
from sweeps.config import SweepConfig
from trainers import base
from trainers.recipe import recipe

FRACTIONS = {1.0: "1", 1 / 4: "1/4", 1 / 16: "1/16", 1 / 64: "1/64", 1 / 256: "1/256"}
"""The paper's, as they are written."""
SHOWN_TOKENS = 400


@dataclass(frozen=True)
class Description:
    """A prepared source under the seed and the length of a configuration."""

    name: str
    record: Record
    quarantine: str
    rows: Prepared
    uses: list[tuple[str, int, int]]
    """Fraction, examples, tokens."""
    examples: list[Text]


def describe(config: SweepConfig, name: str, record: Record, store: Store) -> Description:
    """All that is shown of a source, from its entry in the store."""
    rows = Prepared(record["key"], store)
    tokenizer = base.open_tokenizer(config.model, store)
    return Description(
        name=name,
        record=record,
        quarantine=str(prepare.quarantine_file(record, store)),
        rows=rows,
        uses=list(_uses(config, name, rows)),
        examples=[rendered(tokenizer, row) for row in rows.rows(list(range(min(2, len(rows)))))],
    )


def _uses(config: SweepConfig, name: str, rows: Prepared) -> Iterator[tuple[str, int, int]]:
    """What the paper's fractions take, and those of the configuration's own stages."""
    stages = recipe(config.strategy, config.sources, config.train, config.k or 0.0, config.stages, config.data.total)
    own = {stage.mixture[name] for stage in stages if name in stage.mixture}
    draws = [stage.draws[name] for stage in stages if name in stage.draws] or [mixture.Draw(config.sources[name].sampling)]
    seeded = lineage.identities(config).sources[name]
    for fraction in sorted(FRACTIONS.keys() | own, reverse=True):
        taken = mixture.take(rows.table, fraction, config.train.seed, seeded, draws[0])
        told = FRACTIONS.get(fraction, f"{fraction:.6g}") + " (this sweep)" * (fraction in own)
        yield told, len(taken), int(rows.table.lengths[taken].sum())


def rendered(tokenizer: Any, row: dict[str, Any]) -> Text:
    """An example as text. What is learned stands in ⟦ ⟧, and in green where there are colours."""
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))[:SHOWN_TOKENS]
    text = Text()
    for learned, part in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        said = tokenizer.decode([token for token, _ in part])
        text.append(f"⟦{said}⟧" if learned else said, style="green" if learned else None)
    if len(row["input_ids"]) > SHOWN_TOKENS:
        text.append(f" … and {len(row['input_ids']) - SHOWN_TOKENS} tokens more")
    return text


def lines(described: Description) -> Iterator[Text | Table]:
    """What is printed."""
    record, lengths = described.record, described.rows.table.lengths
    lost = prepare.where_rows_went(record)
    yield Text(f"source {described.name}: {record['used']:,} of {record['rows']:,} rows are used", style="bold")
    if lost:
        yield Text(f"  not used: {lost}")
    for reason, number in record["quarantined"].items():
        yield Text(f"  quarantine: {reason} {number} ({number / record['rows']:.2%})")
    if record["quarantined"]:
        yield Text(f"  quarantine file: {described.quarantine}")
    if len(lengths):
        low, middle, high, most = (int(np.quantile(lengths, q, method="inverted_cdf")) for q in (0, 0.5, 0.95, 1))
        total = int(lengths.sum())
        yield Text(f"  tokens: min {low}, median {middle}, p95 {high}, max {most}, total {total:,}")
        yield Text(f"  cut to whole turns: {record['truncated']:,} rows ({record['truncated'] / len(lengths):.2%})")
    table = Table("  fraction", "examples", "tokens", box=None, pad_edge=False)
    for told, examples, tokens in described.uses:
        table.add_row(f"  {told}", f"{examples:,}", f"{tokens:,}")
    yield table
    for number, example in enumerate(described.examples, 1):
        yield Text(f"  example {number}; what is learned stands in ⟦ ⟧", style="bold")
        yield example
