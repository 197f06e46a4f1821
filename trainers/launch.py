"""Launching one stage on Ray Train: a worker group, or this very process when no worker is asked for."""

import shutil
from typing import Any

from data.store import Record
from trainers.config import ResourcesConfig
from trainers.job import Report, StageJob

TAG = "fulcrum_stage"
"""Name prefix of the Train runs, by which their placement groups and actors can be told from others."""


def launch(job: StageJob, resources: ResourcesConfig, report: Report) -> Record:
    """Train and publish a stage; blocks until it is in the store. Raises what the loop raised, on whatever machine.

    A worker that dies is replaced twice; the stage then starts again from its parent.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    name = f"{TAG}-{job.key}-{int(job.launched * 1000)}"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "report": report},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_per_worker(resources),
            accelerator_type=resources.accelerator,
        ),
        torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=f"{job.store}/.train",  # all nodes must see it; Train keeps its own state there, nothing of ours
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=30),
        ),
    )
    try:
        return dict(trainer.fit().return_value)
    finally:
        shutil.rmtree(f"{job.store}/.train/{name}", ignore_errors=True)


def _worker(config: dict[str, Any]) -> Record:
    from trainers.loop import train_stage

    return train_stage(config["job"], config["report"])


def _per_worker(resources: ResourcesConfig) -> dict[str, float]:
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus_per_worker} | gpus
