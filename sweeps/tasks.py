"""The Ray task that trains one stage and ends with an entry in the store, and what the tasks of a sweep hold."""

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
from trainers.config import ResourcesConfig
from trainers.failures import FINAL, StageStopped
from trainers.job import KIND, Progress, StageJob

ON_THE_HEAD = {"node:__internal_head__": 0.001}
HOLDS_NOTHING: dict[str, Any] = {"num_cpus": 0, "resources": ON_THE_HEAD}
"""A task or trial that only waits for others: on the head, without a CPU."""


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
            return bool(ray.get(graph.progress.remote(job.end, asdict(progress))))
        except RayActorError:  # the graph died, and this stage with it in a moment
            return False

    def launched() -> Record:
        from trainers.launch import launch

        store = Store(job.store)
        with leased(store, KIND, job.key, owner) as mine:  # its rungs as well: they share their resume points
            if not mine or store.record(job.kind, job.end):  # another run is at it, or has just finished it
                return {"elsewhere": True}
            return launch(replace(job, launched=time.time()), resources, report)

    return plainly(launched)


@ray.remote(max_retries=0)
def trained_elsewhere(job: StageJob) -> Record | None:
    """Wait for a stage that another run is training; None where that run gave it up."""
    store = Store(job.store)
    return outcome(store, KIND, job.key, lambda: store.record(job.kind, job.end))


def plainly(work: Callable[[], Record]) -> Record:
    """The result of some work, `{"stopped": step}` where it was asked to stop. Raises Unusable or Failed and nothing else."""
    # Ray interrupts what is cancelled as Ctrl-C does, which processes ignore that a shell has started in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome: Record | Unusable | Failed = work()
    except Exception as error:
        outcome = _told(error)
    gc.collect()  # the frames of an error keep what it left
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _told(error: Exception) -> Record | Unusable | Failed:
    cause = root(error)
    if isinstance(cause, Unusable):
        return type(cause)(cause.kind, cause.key, cause.reason)
    if isinstance(cause, StageStopped):
        return {"stopped": cause.step}
    return Failed(reason(error), again=not isinstance(cause, FINAL), lost=_lost(cause))


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
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a busy process is no reason to lose a trial
    } | ({"HF_HUB_OFFLINE": os.environ["HF_HUB_OFFLINE"]} if "HF_HUB_OFFLINE" in os.environ else {})
