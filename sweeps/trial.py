"""A trial as Ray Tune runs it: a function that holds nothing, asks the graph for its chain, waits, and reports once.

It keeps no state, so it may be killed at any time; the same parameters and number lead it to the same results.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from data.prepare import KIND as PREPARED
from data.store import Record, Store, Unusable
from sweeps.config import SweepConfig
from sweeps.costs import stage_tokens
from sweeps.failures import reason
from sweeps.lineage import EVALUATIONS, Identities, Lineage, lineage
from sweeps.loading import with_params
from sweeps.objectives import objectives
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
    return {"state": "complete", "stages": list(path.keys), "evaluation": path.evaluation} | objectives(
        config, record["scores"]
    )


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
    finished = store.record(EVALUATIONS, path.evaluation)
    if finished:
        return Known({path.evaluation: finished} | {key: store.record(KIND, key) or {} for key in path.keys})
    records = {key: store.record(KIND, key) for key in path.keys}
    last = max((i for i, key in enumerate(path.keys) if records[key]), default=-1)
    tokens = {job.key: stage_tokens(job, store) for job in path.jobs[last + 1 :]}
    return Known({key: records[key] or {} for key in path.keys[: last + 1]}, tokens)
