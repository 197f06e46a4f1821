"""The two objectives of a trial, from the scores of its evaluation, or of those of its repeats."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean, variance
from typing import Any

from evaluators import statistics
from evaluators.benchmark import EvaluationFailed
from sweeps.config import SweepConfig

Scores = Mapping[str, Mapping[str, Any]]


def pooled(repeats: Sequence[Scores]) -> Scores:
    """Means over repeats by seed, with the errors of the means.

    The seeds scatter independently, so their part of the variance is divided by their number. All of them answer the same
    items, so that part is not: it is that of one repeat, on average.
    """
    first, *others = repeats
    return {name: _pooled([scores[name] for scores in repeats]) for name in first} if others else first


def _pooled(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [score["value"] for score in scores]
    error = (fmean(score["stderr"] ** 2 for score in scores) + variance(values) / len(values)) ** 0.5
    return {**scores[0], "value": fmean(values), "stderr": error}


def objectives(config: SweepConfig, scores: Scores) -> dict[str, Any]:
    """The weighted means per role of the scores on 0 to 1, their standard errors, and the scores as published.

    Raises EvaluationFailed for a score that is not finite.
    """
    told: dict[str, Any] = {"scores": {n: s["value"] for n, s in scores.items()}, "stderr": {}}
    for role in ("specialist", "general"):
        weights = {n: b.weight for n, b in config.evaluate.benchmarks.items() if b.role == role}
        total = sum(weights.values())
        values = {n: statistics.unit(scores[n]["value"], scores[n]["scale"]) for n in weights}
        errors = {n: statistics.unit_error(scores[n]["stderr"], scores[n]["scale"]) for n in weights}
        told[role] = sum(weights[n] * values[n] for n in weights) / total
        if not isfinite(told[role]):
            raise EvaluationFailed(f"the {role} objective is {told[role]}: {values}")
        # Benchmarks ask different questions, so their errors are independent.
        told[f"{role}_stderr"] = sum((weights[n] * errors[n]) ** 2 for n in weights) ** 0.5 / total
    told["stderr"] = {n: s["stderr"] for n, s in scores.items()}
    told["extras"] = {n: s["extras"] for n, s in scores.items() if s["extras"]}
    told["items"] = {n: s["items"] for n, s in scores.items()}
    told["judges"] = {n: s["judge"] for n, s in scores.items() if s["judge"]}
    return told
