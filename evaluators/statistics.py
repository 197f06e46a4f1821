"""The statistics of a score, and of the difference between two (Miller, arXiv 2411.00640).

Questions are independent draws; samples of one question and turns of one conversation are not. So every error here is
clustered by question. Two trials that answered the same questions are compared question by question: what makes a question
hard for both then cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from data.fingerprint import digest
from evaluators.benchmark import Completion, EvaluationFailed, Scale, Verdict

LEVEL = 0.95
"""Of every interval."""
POWER = 0.8
"""The chance with which a difference counts as found."""
DRAWS = 10_000
FLAT = 1e-9
"""An error, as a share of the difference, that is only rounding."""
Floats = NDArray[np.float64]


class NotComparable(ValueError):
    """Two scores over different items: rungs, subsets or data that differ."""


@dataclass(frozen=True)
class Score:
    """A benchmark's result over n questions: mean and standard error on its own scale, and two rates of trouble.

    `items` names the set of items. Scores with different names are different quantities, as those of two rungs are.
    """

    n: int
    value: float
    stderr: float
    no_answer_rate: float
    truncated_rate: float
    items: str


@dataclass(frozen=True)
class Mean:
    """A mean over n independent clusters, with its standard error."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A difference of means: its standard error, degrees of freedom, 95 % interval and two-sided p-value (t distribution)."""

    value: float
    stderr: float
    dof: float
    low: float
    high: float
    p: float

    @property
    def detectable(self) -> float:
        """The smallest true difference that such a comparison finds."""
        return minimum_detectable(self.stderr)


def score(verdicts: Sequence[Verdict], answers: Sequence[Sequence[Completion]]) -> Score:
    """The mean over the verdicts with its error. Raises EvaluationFailed for no items: nothing measured is not 0."""
    if not any(verdict.weight for verdict in verdicts):
        raise EvaluationFailed("no item was scored")
    mean = clustered(
        [verdict.score for verdict in verdicts],
        [verdict.group or verdict.id for verdict in verdicts],
        [verdict.weight for verdict in verdicts],
    )
    return Score(
        n=mean.n,
        value=mean.value,
        stderr=mean.stderr,
        no_answer_rate=fmean(not verdict.answered for verdict in verdicts),
        truncated_rate=fmean(any(turn.finish == "length" for turn in turns) for turns in answers),
        items=digest(sorted(verdict.id for verdict in verdicts)),
    )


def clustered(values: Sequence[float], clusters: Sequence[str], weights: Sequence[float] | None = None) -> Mean:
    """The weighted mean of values and its standard error, where values of one cluster go together.

    With residuals summed per cluster, se^2 = G / (G - 1) * sum_g (sum_i w_i (x_i - mean))^2 / (sum w)^2 over G clusters. For
    clusters of one it is the textbook's s / sqrt(n), for equal clusters that of the cluster means. One cluster alone has no
    measurable error: 0.
    """
    sums, totals = _summed(values, clusters, weights)
    mean = sums.sum() / totals.sum()
    residuals, count = sums - mean * totals, len(sums)
    error = np.sqrt(count / (count - 1) * (residuals**2).sum()) / totals.sum() if count > 1 else 0.0
    return Mean(float(mean), float(error), count)


def bootstrap(values: Sequence[float], clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the mean, by drawing whole clusters again with replacement (percentile method)."""
    sums, totals = _summed(values, clusters, None)
    chosen = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    means = (chosen @ sums) / (chosen @ totals)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(first: Sequence[Verdict], second: Sequence[Verdict]) -> Difference:
    """The difference second minus first over the items of both. Raises NotComparable where they are not the same items."""
    before, after = ({verdict.id: verdict for verdict in verdicts} for verdicts in (first, second))
    if before.keys() != after.keys() or len(before) != len(first) or len(after) != len(second):
        raise NotComparable(f"{len(first)} and {len(second)} verdicts that are not of the same items; compare within a rung")
    both = [name for name in before if before[name].weight and after[name].weight]
    if not both:
        raise NotComparable("no item has a score in both")
    differences = [after[name].score - before[name].score for name in both]
    mean = clustered(differences, [before[name].group or name for name in both])
    return _tested(mean.value, mean.stderr, mean.n - 1)


def unpaired(first: Score, second: Score) -> Difference:
    """The difference second minus first of two scores over the same items, when only the scores are known (Welch's test).

    Raises NotComparable for scores of different rungs or subsets.
    """
    if first.items != second.items:
        raise NotComparable(f"a score over {first.n} items and one over {second.n} others; scores of different rungs differ")
    parts = [_tested(sign * score.value, score.stderr, score.n - 1) for sign, score in ((1, second), (-1, first))]
    return combined([(1.0, part) for part in parts])


def combined(parts: Sequence[tuple[float, Difference]]) -> Difference:
    """A weighted sum of independent differences, with Welch and Satterthwaite's degrees of freedom."""
    variances = [(weight * part.stderr) ** 2 for weight, part in parts]
    spread = sum(v**2 / part.dof for v, (_, part) in zip(variances, parts, strict=True) if part.dof > 0)
    dof = sum(variances) ** 2 / spread if spread else max(part.dof for _, part in parts)
    return _tested(sum(weight * part.value for weight, part in parts), sum(variances) ** 0.5, dof)


def holm(p: Sequence[float]) -> list[float]:
    """p-values that hold for all comparisons at once (Holm, 1979), in the order given."""
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def minimum_detectable(stderr: float, power: float = POWER) -> float:
    """The smallest true difference that a two-sided test at 5 % finds with this chance, from the difference's error."""
    from scipy.special import ndtri

    return float(ndtri((1 + LEVEL) / 2) + ndtri(power)) * stderr


def wilson(passed: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson's: it stays within 0 to 1 and is not empty where all or none passed."""
    from scipy.stats import binomtest

    found = binomtest(passed, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def unit(value: float, scale: Scale) -> float:
    """A score on 0 to 1, as it enters an objective: 1 to 10 becomes (s - 1) / 9."""
    return (value - 1) / 9 if scale == "ten" else value


def unit_error(stderr: float, scale: Scale) -> float:
    """A standard error, or a difference, on the scale of `unit`."""
    return stderr / 9 if scale == "ten" else stderr


def _tested(value: float, stderr: float, dof: float) -> Difference:
    from scipy.special import stdtr, stdtrit

    if dof <= 0:  # a single question says nothing of how questions vary
        return Difference(value, stderr, dof, -float("inf"), float("inf"), 1.0)
    if stderr <= FLAT * abs(value):  # all questions differ alike: what is left is the chance that all signs agree
        return Difference(value, 0.0, dof, value, value, 2.0**-dof if value else 1.0)
    reach = float(stdtrit(dof, (1 + LEVEL) / 2)) * stderr
    return Difference(value, stderr, dof, value - reach, value + reach, 2 * float(stdtr(dof, -abs(value) / stderr)))


def _summed(values: Sequence[float], clusters: Sequence[str], weights: Sequence[float] | None) -> tuple[Floats, Floats]:
    """Per cluster the weighted sum of its values and of its weights; clusters without weight are left out."""
    table: Mapping[str, int] = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    places = [table[name] for name in clusters]
    given = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    sums = np.bincount(places, given * np.asarray(values, dtype=float)).astype(float)
    totals = np.bincount(places, given).astype(float)
    return sums[totals > 0], totals[totals > 0]
