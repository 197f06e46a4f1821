"""The Ray task that trains one stage and ends with an entry in the store, and what the tasks of a sweep hold."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import ray

from data.store import Record
from trainers.config import ResourcesConfig
from trainers.job import Progress, StageJob

ON_THE_HEAD = {"node:__internal_head__": 0.001}
HOLDS_NOTHING: dict[str, Any] = {"num_cpus": 0, "resources": ON_THE_HEAD}
"""A task or trial that only waits for others: on the head, without a CPU."""


def stage_options(resources: ResourcesConfig) -> dict[str, Any]:
    """What the task of a stage holds: nothing beside Train workers, the worker's share where it trains itself."""
    return HOLDS_NOTHING if resources.workers else device_options(resources)


def device_options(resources: ResourcesConfig) -> dict[str, Any]:
    """The devices of one worker."""
    return {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}


@ray.remote(max_retries=1)
def train_stage(job: StageJob, resources: ResourcesConfig, graph: Any) -> Record:
    """Train a stage and return its record."""
    from trainers.launch import launch

    def report(progress: Progress) -> None:
        graph.progress.remote(job.key, asdict(progress))

    return launch(replace(job, launched=time.time()), resources, report)


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
