"""A trial as Ray Tune runs it: a function that holds nothing, asks the graph for its chain, waits, and reports what came of it.

It keeps no state, so it may be killed at any time; the same parameters and number lead it to the same results.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from data.prepare import KIND as PREPARED
from data.store import Record, Store, Unusable
from evaluators.entries import EVALUATIONS, GENERATIONS
from sweeps.config import SweepConfig
from sweeps.costs import tokens_left
from sweeps.failures import reason
from sweeps.lineage import Identities, Lineage, merged, repeats
from sweeps.loading import with_params
from sweeps.objectives import objectives, pooled
from sweeps.terms import Known, Stopped
from trainers.job import kind_of

GRAPH_RESTARTS = 5
REPAIRS = 5
"""Times that a trial asks again because something of its chain was damaged in the store."""


@dataclass(frozen=True)
class Context:
    """What all trials of a sweep share. `rungs` are shares of the last stage, below 1, where the pruner looks at them."""

    config: SweepConfig
    identities: Identities
    graph: Any
    rungs: Sequence[float] = ()


def run_trial(settings: Mapping[str, Any], context: Context) -> None:
    """Tune's entry: a report at each rung, where Tune may end it, and one of the outcome or of the reason for having none."""
    _report(settled(lambda: outcome_of(settings["trial"], settings["params"], context)))


def outcome_of(trial: int, params: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Objectives, scores and stages of a trial."""
    config = with_params(context.config, params)
    whole = repeats(config, context.identities)
    for rung in () if all(map(_evaluated, whole)) else context.rungs:
        paths = repeats(config, context.identities, rung)
        _report({"state": "rung", "rung": rung} | scored(context.graph, trial, paths, config))
    return {"state": "complete"} | scored(context.graph, trial, whole, config)


def scored(graph: Any, trial: int | None, paths: Sequence[Lineage], config: SweepConfig) -> dict[str, Any]:
    """What the graph makes of the repeats of a trial: their stages, evaluations and objectives."""
    records = until_answered(lambda: ray.get([graph.want.remote(trial, path, known(path)) for path in paths]))
    stages = list(dict.fromkeys(key for path in paths for key in path.keys))
    told: dict[str, Any] = {"stages": stages, "evaluations": paths[0].evaluations}
    told |= {"repeats": [path.evaluations for path in paths[1:]]} if paths[1:] else {}
    return told | objectives(config, pooled([record["scores"] for record in records]))


def settled(outcome: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """An outcome, or the reason for having none."""
    try:
        return outcome()
    except Exception as error:
        stopped = isinstance(getattr(error, "cause", None), Stopped | Unusable)  # of no fault of the trial's
        return {"state": "stopped" if stopped else "failed", "error": reason(error)}


@ray.remote(max_retries=2)  # as often as Tune starts a trial again whose process died
def measure(graph: Any, trial: int | None, paths: Sequence[Lineage], config: SweepConfig) -> dict[str, Any]:
    """The outcome of what is measured beside the search."""
    return settled(lambda: {"state": "complete"} | scored(graph, trial, paths, config))


def _report(outcome: dict[str, Any]) -> None:
    tune.report({"outcome": json.dumps(outcome)})  # as text: Tune takes nested results apart


def until_answered(ask: Callable[[], list[Record]]) -> list[Record]:
    """Ask the graph until it answers; when it dies it comes back, and that is nobody's failure.

    What was found damaged or missing is not in the store any more: who asks again gets it made anew. Only prepared data
    is not made while a sweep runs, but when it starts.
    """
    deaths = repairs = 0
    while True:
        try:
            return ask()
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
    store = Store(path.store)
    scored = _evaluations(store, path)
    if len(scored) == len(path.orders) > 0:
        finished = {path.evaluation: merged(scored.values())}
        return Known(finished | {key: store.record(kind_of(key), key) or {} for key in path.keys})
    generated = _records(store, GENERATIONS, (order.generation for order in path.orders))
    trained = {job.end: record for job in path.jobs if (record := store.record(job.kind, job.end))}
    last = max((i for i, key in enumerate(path.keys) if key in trained), default=-1)
    tokens = {job.end: tokens_left(job, store) for job in path.jobs[last + 1 :]}
    return Known({key: trained.get(key, {}) for key in path.keys[: last + 1]} | generated | scored, tokens)


def _evaluated(path: Lineage) -> bool:
    return len(_evaluations(Store(path.store), path)) == len(path.orders)


def _evaluations(store: Store, path: Lineage) -> dict[str, Record]:
    return _records(store, EVALUATIONS, path.evaluations.values())


def _records(store: Store, kind: str, keys: Iterable[str]) -> dict[str, Record]:
    """The records of the entries that the store holds, by key."""
    found = {key: store.record(kind, key) for key in keys}
    return {key: record for key, record in found.items() if record}
