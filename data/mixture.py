"""Which rows of a source a mixture takes, and in which order a stage sees them.

Deterministic and nested: under one seed, the rows of a smaller fraction are a subset of those of a larger one, so that two
values of k differ only in the rows that the larger one adds. (The paper, arXiv 2310.05492, does not say whether its subsets
are nested; here they always are.)
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data import fraction as fractions

Rows = NDArray[np.int64]


def take(rows: int, fraction: float, seed: int, name: str) -> Rows:
    """Indices of the rows that `fraction` of a source of `rows` rows uses, shape (count,).

    Above 1 a source is taken in whole passes plus a nested remainder. `name` is the source's fingerprint: it keeps two
    sources of one size from being sampled alike.
    """
    wanted = fractions.count(fraction, rows)
    order = generator("sample", seed, name).permutation(rows)
    passes, remainder = divmod(wanted, rows) if rows else (0, 0)
    return np.concatenate([np.tile(order, passes), order[:remainder]]).astype(np.int64)


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
