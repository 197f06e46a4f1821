"""Launching one stage: on Ray Train's worker group, or in this very process when no worker is asked for.

An attempt that ended in a failure but got further (it left a later resume point, or knows how many rows fit) is followed by
another from there. One that got no further is left to whoever launched the stage: tries are counted in one place.
"""

import gc
import sys
import tempfile
from dataclasses import replace
from typing import Any

from data.store import Record, Store
from trainers import memory
from trainers.config import ResourcesConfig
from trainers.failures import FINAL
from trainers.job import RESUME, Report, StageJob

TAG = "fulcrum_stage"
"""Name prefix of the Train runs."""


def launch(job: StageJob, resources: ResourcesConfig, report: Report) -> Record:
    """Train and publish a stage; blocks until it is in the store. Raises what the loop raised, on whatever machine."""
    store = Store(job.store)
    job = replace(job, spent=_spent(job, store))
    reached = _reached(job, store)
    while True:
        try:
            return _attempt(job, resources, report)
        except Exception as error:
            before, reached = reached, _reached(job, store)
            if isinstance(error, FINAL) or reached == before:
                raise
        _free_memory()


def _attempt(job: StageJob, resources: ResourcesConfig, report: Report) -> Record:
    if not resources.workers:
        from trainers.loop import train_stage

        return train_stage(job, report)
    from ray.train.v2.api.exceptions import WorkerGroupError

    try:
        with tempfile.TemporaryDirectory(prefix="fulcrum-train-") as folder:
            return dict(_trainer(job, resources, report, folder).fit().return_value)
    except WorkerGroupError as error:
        raise _cause(error) from error


def _trainer(job: StageJob, resources: ResourcesConfig, report: Report, folder: str) -> Any:
    """A Train run of one attempt. Its own state is of no use to the next, so it stays on this machine."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from trainers.worker_group import StageTrainer, TorchThere

    return StageTrainer(
        _worker,
        train_loop_config={"job": job, "report": report},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_per_worker(resources),
            accelerator_type=resources.accelerator,
        ),
        backend_config=TorchThere("nccl" if job.gpu else "gloo", max(1, int(job.train.collective_timeout))),
        run_config=RunConfig(
            name=f"{TAG}-{job.key}",
            storage_path=folder,
            # Failures are counted here. Preempted nodes are not failures: Train starts the group again as often as it takes.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=-1, controller_failure_limit=30),
        ),
    )


def _worker(config: dict[str, Any]) -> Record:
    from ray.train import get_preemption_info

    from trainers.loop import train_stage

    return train_stage(config["job"], config["report"], lambda: get_preemption_info() is not None)


def _cause(error: Any) -> BaseException:
    """The failure of a worker that says most: one that is final, where its peers may only have been cut off."""
    failures = [getattr(failure, "_base_exc", None) or failure for failure in error.worker_failures.values()]
    final = [failure for failure in failures if isinstance(failure, FINAL)]
    return next(iter(final + failures), error)


def _spent(job: StageJob, store: Store) -> float:
    """Device-seconds of earlier launches, as far as they are on record."""
    return max((record["device_seconds"] for record in store.records(RESUME, f"{job.key}-")), default=0.0)


def _reached(job: StageJob, store: Store) -> tuple[int, int]:
    """What an attempt has to change to have got further: the last step that is kept, and the rows at a time."""
    steps = [record["step"] for record in store.records(RESUME, f"{job.key}-")]
    rows = (memory.allowed(job, store) or {}).get("rows", job.train.rows)
    return max(steps, default=0), rows


def _free_memory() -> None:
    """What a failed attempt left in this process: its tensors hang in cycles."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _per_worker(resources: ResourcesConfig) -> dict[str, float]:
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus_per_worker} | gpus
