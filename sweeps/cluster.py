"""Joining or starting a Ray cluster, and leaving nothing of ours behind on it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from typing import Any

from sweeps.config import SweepConfig
from sweeps.errors import ClusterTooSmall
from sweeps.tasks import environment
from trainers.config import ResourcesConfig

LEAVE_WITHIN_S = 20.0


@contextmanager
def joined(config: SweepConfig, address: str | None) -> Iterator[None]:
    """A connection to the cluster at an address, at RAY_ADDRESS, or to one started here for the time of the block."""
    import ray

    # Read by this process before Tune starts; Ctrl-C is ours to handle.
    os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")  # fewer warnings about it on small machines
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0", "TUNE_FORCE_TRIAL_CLEANUP_S": "30"}
    variables = environment(max(1, int(config.resources.cpus_per_worker)), config.resources.gpus_per_worker > 0)
    ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "local",
        namespace=f"fulcrum-{config.name}",
        runtime_env={"env_vars": dict(variables)},
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        _remove_groups()
        ray.shutdown()


def slots(resources: ResourcesConfig) -> int:
    """How many stages the cluster can train at once. Raises ClusterTooSmall with what is asked and what is there."""
    import ray

    there = ray.cluster_resources()
    workers = max(1, resources.workers)
    asked = {"CPU": resources.cpus_per_worker * workers, "GPU": resources.gpus_per_worker * workers}
    fit = min(floor(there.get(name, 0) / amount) for name, amount in asked.items() if amount)
    if fit < 1:
        has = {name: there.get(name, 0.0) for name in asked}
        raise ClusterTooSmall(f"a stage needs {asked}, the cluster has {has}; lower resources.workers or add nodes")
    return fit


def _remove_groups() -> None:
    """Remove the placement groups of this job: a stage that was killed can leave its own behind."""
    from ray._raylet import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    until = time.monotonic() + LEAVE_WITHIN_S
    while (left := groups_of_this_job()) and time.monotonic() < until:
        for group in left:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
        time.sleep(0.2)


def groups_of_this_job() -> list[str]:
    """Ids of the placement groups that hold resources; an id ends with that of the job that made it."""
    import ray
    from ray.util import placement_group_table

    job = ray.get_runtime_context().get_job_id()
    table: dict[str, Any] = placement_group_table()
    return [group for group, about in table.items() if group.endswith(job) and about["state"] != "REMOVED"]
