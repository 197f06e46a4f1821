"""Which trials can be told apart: every trial against the balance point, and the trials of the front among each other.

Two trials have answered the same items, so they are compared item by item on what lies in `trials/<number>/`. With many
comparisons some look large by chance; the p-values are Holm's, which hold for all of them at once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from data.files import Folder
from evaluators import evaluate, statistics
from evaluators.benchmark import Verdict
from evaluators.statistics import Difference
from sweeps.balance import Point, front
from sweeps.config import SweepConfig

OBJECTIVES = ("specialist", "general")
ALPHA = 1 - statistics.LEVEL


@dataclass(frozen=True)
class Comparison:
    """Second trial minus first in one objective, 0 to 1. `p` holds for all comparisons of the sweep together."""

    trials: tuple[int, int]
    objective: str
    difference: Difference
    p: float

    @property
    def told_apart(self) -> bool:
        return self.p < ALPHA


def compare(folder: Folder, config: SweepConfig, points: Sequence[Point], chosen: int | None) -> list[Comparison]:
    """The comparisons of a run, [] for fewer than two trials. Trials whose items are gone are left out."""
    verdicts = cache(lambda trial, name: _of_repeats(folder / f"trials/{trial:04d}", name, config.search.repeats))
    names = list(config.evaluate.benchmarks)
    there = [p for p in points if all(verdicts(p.trial, name) is not None for name in names)]
    found = [
        (pair, objective, _difference(config, objective, [partial(verdicts, trial) for trial in pair]))
        for pair in _pairs(there, chosen)
        for objective in OBJECTIVES
    ]
    adjusted = statistics.holm([difference.p for _, _, difference in found])
    return [Comparison(pair, objective, d, p) for (pair, objective, d), p in zip(found, adjusted, strict=True)]


def alike(comparisons: Sequence[Comparison]) -> list[tuple[int, int]]:
    """Pairs that no objective tells apart."""
    apart = {c.trials for c in comparisons if c.told_apart}
    return [pair for pair in dict.fromkeys(c.trials for c in comparisons) if pair not in apart]


def alike_to(comparisons: Sequence[Comparison], trial: int) -> tuple[int, ...]:
    """The trials that no objective tells apart from one."""
    return tuple(sum(pair) - trial for pair in alike(comparisons) if trial in pair)


def detectable(comparisons: Sequence[Comparison], objective: str) -> float | None:
    """The difference between two trials that such a comparison finds four times in five; None without comparisons."""
    found = [c.difference.detectable for c in comparisons if c.objective == objective]
    return median(found) if found else None


def _pairs(points: Sequence[Point], chosen: int | None) -> list[tuple[int, int]]:
    best = front(np.array([p.objectives for p in points])) if points else []
    pairs = {(chosen, p.trial) for p in points if chosen in {q.trial for q in points} and p.trial != chosen}
    pairs |= set(combinations([points[i].trial for i in best], 2))
    return sorted({(min(pair), max(pair)) for pair in pairs if None not in pair})


def _difference(config: SweepConfig, objective: str, verdicts: Sequence[Callable[[str], Any]]) -> Difference:
    weights = {n: b.weight for n, b in config.evaluate.benchmarks.items() if b.role == objective}
    shares = {n: statistics.unit_error(w, evaluate.BENCHMARKS[n].scale) / sum(weights.values()) for n, w in weights.items()}
    return statistics.combined([(share, statistics.paired(*(of(n) for of in verdicts))) for n, share in shares.items()])


def _of_repeats(folder: Folder, name: str, repeats: int) -> list[Verdict] | None:
    """The verdicts of one benchmark of a trial, each item's score the mean over the repeats in which it has one; None where a
    file is gone."""
    first, *others = [_verdicts(folder.read(f"repeat-{r}/{name}.jsonl" if r else f"{name}.jsonl")) for r in range(repeats)]
    if first is None or None in others:
        return None
    every = [{verdict.id: verdict for verdict in verdicts or ()} for verdicts in (first, *others)]
    return [_mean([verdicts[one.id] for verdicts in every]) for one in first]


def _mean(verdicts: Sequence[Verdict]) -> Verdict:
    counted = [verdict for verdict in verdicts if verdict.weight]
    return replace(counted[0], score=fmean(verdict.score for verdict in counted)) if counted else verdicts[0]


def _verdicts(text: bytes | None) -> list[Verdict] | None:
    """The verdicts of one benchmark of a trial, None where the file is gone."""
    if text is None:
        return None
    lines = [json.loads(line) for line in text.split(b"\n") if line]
    return [Verdict(x["id"], x["score"], x["answered"], group=x["group"], weight=x.get("weight", 1.0)) for x in lines]
