"""The Ray tasks of a sweep: train one stage, evaluate one checkpoint. Each ends with an entry in the store."""

import gc
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from data.store import Record, Store, Unusable
from sweeps.failures import Failed, reason, root
from sweeps.lease import leased, outcome
from sweeps.lineage import EVALUATIONS, Lineage
from trainers.config import ResourcesConfig
from trainers.job import KIND, Progress, StageJob

ON_THE_HEAD = {"node:__internal_head__": 0.001}
HOLDS_NOTHING: dict[str, Any] = {"num_cpus": 0, "resources": ON_THE_HEAD}
"""A task or trial that only waits for others: on the head, without a CPU."""
NO_RETRY = ("LossNotFinite", "ValueError", "KeyError", "TypeError")
"""Errors that come again: a stage is a pure function of its inputs."""


def stage_options(resources: ResourcesConfig) -> dict[str, Any]:
    """What the task of a stage holds: nothing beside Train workers, the worker's share where it trains itself."""
    return HOLDS_NOTHING if resources.workers else device_options(resources)


def device_options(resources: ResourcesConfig) -> dict[str, Any]:
    """The devices of one worker."""
    given = {"accelerator_type": resources.accelerator} if resources.accelerator else {}
    return {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker, **given}


@ray.remote(max_retries=0)
def train_stage(job: StageJob, resources: ResourcesConfig, graph: Any, owner: str) -> Record:
    """Train a stage and return its record; `{"elsewhere": True}` where another run is training it."""

    def report(progress: Progress) -> bool:
        try:
            return bool(ray.get(graph.progress.remote(job.key, asdict(progress))))
        except RayActorError:  # the graph died, and this stage with it in a moment
            return False

    def launched() -> Record:
        from trainers.launch import launch

        store = Store(job.store)
        with leased(store, KIND, job.key, owner) as mine:
            if not mine or store.record(KIND, job.key):  # another run is at it, or has just finished it
                return {"elsewhere": True}
            return launch(replace(job, launched=time.time()), resources, report)

    return plainly(launched)


@ray.remote(max_retries=0)
def trained_elsewhere(store: str, key: str) -> Record | None:
    """Wait for a stage that another run is training; None where that run gave it up."""
    return outcome(Store(store), KIND, key)


@ray.remote(max_retries=0)
def evaluate_checkpoint(lineage: Lineage, devices: float) -> Record:
    """Score the last checkpoint of a lineage; the record holds the scores by benchmark."""

    def evaluated() -> Record:
        from evaluators.evaluate import evaluate

        started = time.time()
        store = Store(lineage.jobs[-1].store)
        record: Record = {"stage": lineage.keys[-1]}
        with store.writing(EVALUATIONS, lineage.evaluation, record) as folder:
            model = str(store.fetch(KIND, lineage.keys[-1]))
            record["scores"] = evaluate(model, lineage.evaluate, folder, lineage.trust_remote_code)
            record["device_seconds"] = devices * (time.time() - started)
        return record

    return plainly(evaluated)


def plainly(work: Callable[[], Record]) -> Record:
    """The result of some work, `{"stopped": step}` where it was asked to stop. Raises Unusable or Failed and nothing else."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        outcome: Record | Unusable | Failed = work()
    except Exception as error:
        outcome = _told(error)
    finally:
        # Train leaves a handler behind that keeps its controller alive, as the frames of its error do; and a controller that
        # lives keeps the devices of a group that it has lost.
        signal.signal(signal.SIGINT, handler)
    gc.collect()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _told(error: Exception) -> Record | Unusable | Failed:
    cause = root(error)
    if isinstance(cause, Unusable):
        return type(cause)(cause.kind, cause.key, cause.reason)
    if type(cause).__name__ == "StageStopped":  # of trainers, which only the process that trains imports
        return {"stopped": getattr(cause, "step", None)}
    return Failed(
        reason(error), again=type(cause).__name__ not in NO_RETRY, lost=_lost(cause), cost=getattr(cause, "cost", None)
    )


def _lost(cause: BaseException) -> bool:
    """Whether a worker is gone because its node is: preempted, or dead without notice."""
    return type(cause).__name__ == "PreemptionError" or (isinstance(cause, RayError) and "node has died" in str(cause))


def environment(threads: int, gpu: bool) -> Mapping[str, str]:
    """Environment of every process of a sweep."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
        "DS_ACCELERATOR": "cuda" if gpu else "cpu",
        "RAY_USAGE_STATS_ENABLED": "0",
    } | ({"HF_HUB_OFFLINE": os.environ["HF_HUB_OFFLINE"]} if "HF_HUB_OFFLINE" in os.environ else {})
