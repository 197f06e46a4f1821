"""Which rows of a source a mixture takes, and in which order a stage sees them.

Deterministic and nested: under one seed, the rows of a smaller share are a subset of those of a larger one, so that two
values of k differ only in the rows that the larger one adds. (The paper, arXiv 2310.05492, does not say whether its subsets
are nested; here they always are.)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction as Rational
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.fraction import rational

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What a fraction of a source is counted in.

    Without a budget fraction 1 is the whole source: all its answers (rows), or all its questions with all their answers.
    With a budget fraction 1 is `budget` examples or tokens, whatever the source holds: less than all of it, or more, by
    whole passes and a nested remainder.
    """

    sampling: Literal["answer", "question"] = "answer"
    budget: float | None = None
    unit: Literal["examples", "tokens"] = "examples"

    def plain(self) -> list[Any]:
        """What of it changes the rows that are taken, [] for the default: part of a stage's key."""
        return [] if self == Draw() else [self.sampling, self.budget, self.unit if self.budget is not None else None]


ALL = Draw()


@dataclass(frozen=True)
class Table:
    """What sampling has to know of a source: per row its tokens and its question, each of shape (rows,)."""

    lengths: Rows
    questions: Rows

    def __len__(self) -> int:
        return len(self.lengths)


def take(table: Table, fraction: float, seed: int, name: str, draw: Draw = ALL) -> Rows:
    """Indices of the rows that a fraction of a source takes, shape (count,).

    Whole items are taken (answers, or questions with their answers), as many as come nearest to what is wanted, halves
    rounded up; above all of the source in whole passes plus a nested remainder. `name` is the source's fingerprint: it
    keeps two sources of one size from being sampled alike.
    """
    order, ends = _items(table, draw, generator("sample", seed, name))
    sizes = _sizes(table, order, ends, draw)
    whole = int(sizes.sum())
    wanted = rational(fraction) * (len(ends) if draw.budget is None else rational(draw.budget))
    passes, remainder = divmod(wanted, whole) if whole else (0, Rational(0))
    # The items whose middle lies within the remainder: in whole numbers, so that a half is a half.
    fit = int(np.searchsorted(2 * np.cumsum(sizes) - sizes, int(2 * remainder), side="right"))
    rest = order[: ends[fit - 1] if fit else 0]
    return np.concatenate([np.tile(order, int(passes)), rest]).astype(np.int64)


def _items(table: Table, draw: Draw, random: np.random.Generator) -> tuple[Rows, Rows]:
    """All rows in the order of sampling, and where in it each item ends."""
    if draw.sampling == "answer":
        return random.permutation(len(table)), np.arange(1, len(table) + 1)
    distinct, of = np.unique(table.questions, return_inverse=True)
    rank = random.permutation(len(distinct))[of]
    return np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank, minlength=len(distinct)))


def _sizes(table: Table, order: Rows, ends: Rows, draw: Draw) -> Rows:
    """What each item counts, in order: one, its examples, or its tokens."""
    if draw.budget is None:
        return np.ones(len(ends), np.int64)
    each = table.lengths.astype(np.int64) if draw.unit == "tokens" else np.ones(len(table), np.int64)
    upto = np.concatenate([[0], np.cumsum(each[order])])
    return np.diff(upto[np.concatenate([[0], ends])]).astype(np.int64)


def epochs(examples: int, count: int, seed: int) -> Rows:
    """The order in which a stage sees its examples: `count` shuffled passes, shape (examples * count,)."""
    passes = [generator("order", seed, str(epoch)).permutation(examples) for epoch in range(count)]
    return np.concatenate(passes).astype(np.int64) if passes else np.zeros(0, np.int64)


def steps(order: Rows, batch_size: int) -> Sequence[Rows]:
    """The examples of each optimiser step. The last step may be smaller; no example is dropped."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generator(*purpose: object) -> np.random.Generator:
    """A random generator for one purpose, the same on every machine and in every process."""
    seed = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()[:8]
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
