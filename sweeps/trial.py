"""A trial as Ray Tune runs it: a function that holds nothing, asks the graph for its chain, waits, and reports once.

It keeps no state, so it may be killed at any time; the same parameters and number lead it to the same results.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from data.prepare import KIND as PREPARED
from data.store import Record, Store, Unusable
from evaluators import statistics
from evaluators.entries import EVALUATIONS, GENERATIONS
from sweeps.config import SweepConfig
from sweeps.costs import stage_tokens
from sweeps.lineage import Identities, Lineage, lineage, merged
from sweeps.loading import with_params
from sweeps.tasks import reason
from sweeps.terms import Known, Stopped
from trainers.job import KIND

GRAPH_RESTARTS = 5
REPAIRS = 5
"""Times that a trial asks again because something of its chain was damaged in the store."""


@dataclass(frozen=True)
class Context:
    """What all trials of a sweep share."""

    config: SweepConfig
    identities: Identities
    graph: Any


def run_trial(settings: Mapping[str, Any], context: Context) -> None:
    """Tune's entry: one report, of the outcome or of the reason for having none."""
    try:
        outcome = outcome_of(settings["trial"], settings["params"], context)
    except Exception as error:
        stopped = isinstance(getattr(error, "cause", None), Stopped | Unusable)  # of no fault of the trial's
        outcome = {"state": "stopped" if stopped else "failed", "error": reason(error)}
    tune.report({"outcome": json.dumps(outcome)})  # as text: Tune takes nested results apart


def outcome_of(trial: int, params: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Objectives, scores and stages of a trial."""
    config = with_params(context.config, params)
    path = lineage(config, context.identities)
    record = until_answered(lambda: ray.get(context.graph.want.remote(trial, path, known(path))))
    return {"state": "complete", "stages": list(path.keys), "evaluations": path.evaluations} | objectives(
        config, record["scores"]
    )


def objectives(config: SweepConfig, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The weighted means per role of the scores on 0 to 1, their standard errors, and the scores as published."""
    told: dict[str, Any] = {"scores": {n: s["value"] for n, s in scores.items()}, "stderr": {}}
    for role in ("specialist", "general"):
        weights = {n: b.weight for n, b in config.evaluate.benchmarks.items() if b.role == role}
        total = sum(weights.values())
        values = {n: statistics.unit(scores[n]["value"], scores[n]["scale"]) for n in weights}
        errors = {n: statistics.unit_error(scores[n]["stderr"], scores[n]["scale"]) for n in weights}
        told[role] = sum(weights[n] * values[n] for n in weights) / total
        # Benchmarks ask different questions, so their errors are independent.
        told[f"{role}_stderr"] = sum((weights[n] * errors[n]) ** 2 for n in weights) ** 0.5 / total
    told["stderr"] = {n: s["stderr"] for n, s in scores.items()}
    told["extras"] = {n: s["extras"] for n, s in scores.items() if s["extras"]}
    told["items"] = {n: s["items"] for n, s in scores.items()}
    told["judges"] = {n: s["judge"] for n, s in scores.items() if s["judge"]}
    return told


def until_answered(ask: Callable[[], Record]) -> Record:
    """Ask the graph until it answers; when it dies it comes back, and that is nobody's failure.

    What was found damaged or missing is not in the store any more: who asks again gets it made anew. Only prepared data
    is not made while a sweep runs, but when it starts.
    """
    deaths = repairs = 0
    while True:
        try:
            return dict(ask())
        except RayTaskError as error:
            repairs += 1
            lacking = error.cause
            if not isinstance(lacking, Unusable) or lacking.kind == PREPARED or repairs > REPAIRS:
                raise
        except RayActorError:
            deaths += 1
            if deaths > GRAPH_RESTARTS:
                raise
            time.sleep(deaths)


def known(path: Lineage) -> Known:
    """What the store already holds of a lineage. The end of the chain is enough: nothing before it is needed then."""
    store = Store(path.jobs[-1].store)
    scored = _records(store, EVALUATIONS, path.evaluations.values())
    if len(scored) == len(path.orders) > 0:
        finished = {path.evaluation: merged(scored.values())}
        return Known(finished | {key: store.record(KIND, key) or {} for key in path.keys})
    generated = _records(store, GENERATIONS, (order.generation for order in path.orders))
    trained = _records(store, KIND, path.keys)
    last = max((i for i, key in enumerate(path.keys) if key in trained), default=-1)
    tokens = {job.key: stage_tokens(job, store) for job in path.jobs[last + 1 :]}
    return Known({key: trained.get(key, {}) for key in path.keys[: last + 1]} | generated | scored, tokens)


def _records(store: Store, kind: str, keys: Iterable[str]) -> dict[str, Record]:
    """The records of the entries that the store holds, by key."""
    found = {key: store.record(kind, key) for key in keys}
    return {key: record for key, record in found.items() if record}
