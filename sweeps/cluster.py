"""Joining or starting a Ray cluster, and leaving nothing of ours behind on it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from typing import Any

from sweeps.config import SweepConfig
from sweeps.tasks import environment
from trainers.config import ResourcesConfig

LEAVE_WITHIN_S = 20.0


class ClusterTooSmall(RuntimeError):
    """No stage of the sweep fits the cluster."""


@contextmanager
def joined(config: SweepConfig, address: str | None) -> Iterator[None]:
    """A connection to the cluster at an address, at RAY_ADDRESS, or to one started here for the time of the block."""
    import ray

    # Read by this process before Tune starts; Ctrl-C is ours to handle.
    os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
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
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    until = time.monotonic() + LEAVE_WITHIN_S
    mine = _groups_of_this_job()
    while mine and time.monotonic() < until:
        for group in mine:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
        table: dict[str, Any] = placement_group_table()
        mine = [group for group in mine if table.get(group, {}).get("state", "REMOVED") != "REMOVED"]
        if mine:
            time.sleep(0.2)
    ray.util.placement_group_table()


def _groups_of_this_job() -> list[str]:
    import ray
    from ray.util.state import list_placement_groups

    job = ray.get_runtime_context().get_job_id()
    listed = list_placement_groups(filters=[("creator_job_id", "=", job)], limit=10_000, raise_on_missing_output=False)
    return [group["placement_group_id"] for group in listed if group["state"] != "REMOVED"]
