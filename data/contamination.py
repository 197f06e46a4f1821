"""Evaluation items that stand in training rows, found by their words.

An item is found where a user message has exactly the words of its first turn, or where one row holds at least 70 % of the
item's 13-grams. (13-grams as in GPT-3, Brown et al., arXiv 2005.14165, appendix C; the share as in PaLM, Chowdhery et al.,
arXiv 2204.02311, section 8. A single shared 13-gram says little: GSM8K's own train and test questions share them in 3 of
1,319 items, by the way such problems are put.) Items that share any 13-gram are counted beside, as `touched`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import arrow, conversations, parallel, sources
from data.config import SourceConfig
from data.fingerprint import digest
from data.formats import Conversation
from data.prepare import left_out
from data.store import Record, Store
from data.words import HeldOut, words

KIND = "overlap"
VERSION = 1  # raise it when the same rows and items would give another overlap
N = 13
FOUND = 0.7
SHOWN = 5
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit is lost
BETWEEN = np.uint64(0xD1B54A32D192ED03)  # stands between two texts: no n-gram spans them
TABLE_BITS = 22

Items = Mapping[str, Sequence[tuple[str, ...]]]
"""The user's turns of each item, by benchmark."""
Hashes = NDArray[np.uint64]


class Contaminated(ValueError):
    """More evaluation items stand in training rows than `data.max_overlap` allows."""


def overlap(source: SourceConfig, items: Items, store: Store, held_out: HeldOut | None = None) -> Record:
    """What of the items stands in the rows that a source gives to training; from the store where that is known.

    The record maps each benchmark to `items`, `found`, `touched` and `examples` of found items: [item, place of the row].
    """
    key = digest({"source": sources.fingerprint(source, held_out), "items": items, "version": VERSION})
    if store.record(KIND, key) is None:
        parsed = conversations.parse(source, store)
        skipped = left_out(source, parsed, store, held_out).rows
        found = _search(conversations.rows(parsed, store), items, skipped)
        with store.writing(KIND, key, {"source": source.path, "benchmarks": found}):
            pass
    record = store.record(KIND, key)
    assert record is not None
    return record


def sentence(benchmark: str, told: Record) -> str:
    """One line on the overlap of a source with a benchmark."""
    return (
        f"{told['found']} of {told['items']} items of {benchmark} stand in its rows, "
        f"{told['touched']} share {N} words in a row with one"
    )


def refuse_overlap(name: str, record: Record, allowed: float) -> None:
    """Raises Contaminated with the rows, and the way out, above the allowed share of a benchmark's items."""
    for benchmark, told in record["benchmarks"].items():
        if told["found"] > allowed * told["items"]:
            shown = ", ".join(f"item {item} in {place}" for item, place in told["examples"])
            raise Contaminated(
                f"sources.{name}: {told['found']} of {told['items']} items of {benchmark} stand in its rows ({shown}); "
                f"remove the rows or raise data.max_overlap above {told['found'] / told['items']:.3g}"
            )


def _search(rows: Path, items: Items, skipped: frozenset[int]) -> dict[str, Any]:
    places, first = [], 0
    for file, number in arrow.places(rows):
        places.append((file, number, first))
        first += len(arrow.batch(file, number))
    turns = [(name, number, item) for name, all_of in items.items() for number, item in enumerate(all_of)]
    work = partial(_Search.of_batch, tuple(item for _, _, item in turns), skipped)
    workers = min(parallel.cores(), len(places) // 8)
    best: dict[int, tuple[float, str]] = {}
    for matches in parallel.in_order(work, places, workers):
        for item, share, place in matches:
            best[item] = max(best.get(item, (0.0, "")), (share, place), key=lambda match: match[0])
    return {name: _summary(name, turns, best) for name in items}


def _summary(name: str, turns: Sequence[tuple[str, int, Any]], best: Mapping[int, tuple[float, str]]) -> dict[str, Any]:
    mine = {number: best.get(i, (0.0, "")) for i, (benchmark, number, _) in enumerate(turns) if benchmark == name}
    found = [[number, place] for number, (share, place) in mine.items() if share >= FOUND]
    touched = sum(share > 0 for share, _ in mine.values())
    return {"items": len(mine), "found": len(found), "touched": touched, "examples": found[:SHOWN]}


class _Search:
    """The items' n-grams and questions, laid out for looking up. Hashes are those of this process."""

    _built: "tuple[int, _Search] | None" = None

    def __init__(self, items: Sequence[tuple[str, ...]]) -> None:
        self.questions: dict[str, list[int]] = defaultdict(list)
        self.items_of: dict[int, list[int]] = defaultdict(list)
        self.sizes: list[int] = []
        for number, turns in enumerate(items):
            if said := " ".join(words(turns[0])):
                self.questions[said].append(number)
            grams = set(_grams(_hashes([words(" ".join(turns))])[:-1]).tolist())
            self.sizes.append(len(grams))
            for gram in grams:
                self.items_of[gram].append(number)
        self._table = np.zeros(1 << TABLE_BITS, bool)
        self._grams = np.sort(np.array(list(self.items_of), np.uint64))
        self._table[self._grams >> np.uint64(64 - TABLE_BITS)] = True

    @classmethod
    def of_batch(
        cls, items: Sequence[tuple[str, ...]], skipped: frozenset[int], task: tuple[str, int, int]
    ) -> list[tuple[int, float, str]]:
        """Matches in a batch of conversations: (item, share of its n-grams, place of the row)."""
        if cls._built is None or cls._built[0] != id(items):
            cls._built = (id(items), cls(items))
        file, number, first = task
        batch = arrow.batch(file, number)
        talks, places = batch["messages"].to_pylist(), batch["place"].to_pylist()
        wanted = [i for i in range(len(talks)) if first + i not in skipped]
        return [(item, share, places[i]) for i, item, share in cls._built[1].matches(wanted, talks)]

    def matches(self, wanted: Sequence[int], talks: Sequence[Conversation]) -> Iterator[tuple[int, int, float]]:
        said = {i: [words(message["content"]) for message in talks[i]] for i in wanted}
        for i in wanted:
            for message, spoken in zip(talks[i], said[i], strict=True):
                if message["role"] == "user":
                    yield from ((i, item, 1.0) for item in self.questions.get(" ".join(spoken), ()))
        hashes = [_hashes(said[i]) for i in wanted]
        rows = np.repeat(np.array(wanted, np.int64), [len(h) for h in hashes])
        grams = _grams(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
        near = np.flatnonzero(self._table[grams >> np.uint64(64 - TABLE_BITS)])
        here = near[np.isin(grams[near], self._grams)]
        counted: dict[tuple[int, int], int] = defaultdict(int)
        for row, gram in set(zip(rows[here].tolist(), grams[here].tolist(), strict=True)):
            for item in self.items_of[gram]:
                counted[row, item] += 1
        yield from ((row, item, number / self.sizes[item]) for (row, item), number in counted.items())


def _hashes(texts: Sequence[Sequence[str]]) -> Hashes:
    """A hash for each word of some texts, and one that no word has behind each text."""
    numbers = [np.fromiter(map(hash, text), np.int64, len(text)).view(np.uint64) for text in texts]
    return np.concatenate([part for text in numbers for part in (text, [BETWEEN])]) if numbers else np.zeros(0, np.uint64)


def _grams(hashes: Hashes) -> Hashes:
    """A hash for each N words in a row; a gram over the end of a text has a hash that no item's has."""
    if len(hashes) < N:
        return np.zeros(0, np.uint64)
    size = len(hashes) - N + 1
    gram = np.zeros(size, np.uint64)
    for start in range(N):
        gram = gram * MULTIPLIER + hashes[start : start + size]
    return gram ^ (gram >> np.uint64(29))
