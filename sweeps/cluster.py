"""Joining or starting a Ray cluster, and leaving nothing of ours behind on it."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sweeps.admission import Resources, shape
from sweeps.config import SweepConfig
from sweeps.errors import ClusterTooSmall
from sweeps.reaper import MARK, groups, remove
from sweeps.tasks import environment
from trainers.config import ResourcesConfig

LEAVE_WITHIN_S = 20.0


@contextmanager
def joined(config: SweepConfig, address: str | None) -> Iterator[str]:
    """A connection to the cluster at an address, at RAY_ADDRESS, or to one started here for the time of the block.

    Yields the mark that all processes of this sweep carry.
    """
    import ray

    # Read by this process before Tune starts; Ctrl-C is ours to handle.
    os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")  # fewer warnings about it on small machines
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0", "TUNE_FORCE_TRIAL_CLEANUP_S": "30"}
    variables = environment(max(1, int(config.resources.cpus_per_worker)), config.resources.gpus_per_worker > 0)
    mark = uuid.uuid4().hex
    ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "local",
        namespace=f"fulcrum-{config.name}",
        runtime_env={"env_vars": {**variables, MARK: mark}},
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield mark
    finally:
        _leave()
        ray.shutdown()


def nodes() -> list[Resources]:
    """The resources of every node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def require_room(resources: ResourcesConfig) -> None:
    """Raises ClusterTooSmall, with what is asked and what is there, where no stage or evaluation ever fits.

    Not where the user allows a wait, or says that the cluster grows.
    """
    there = nodes()
    for name in ("train", "evaluate"):
        asked = shape(resources, name)
        if not asked.capacity(there) and resources.wait_minutes is None:
            total = {kind: amount * asked.bundles for kind, amount in asked.bundle.items()}
            has = {kind: sum(node.get(kind, 0.0) for node in there) for kind in asked.bundle}
            raise ClusterTooSmall(
                f"pool {name} needs {total} in {asked.bundles} equal parts, the cluster has {has} on {len(there)} nodes; "
                "lower resources.workers or add nodes; resources.wait_minutes waits for nodes to come"
            )


def _leave() -> None:
    """Remove the placement groups of this job: a stage that was killed can leave its own behind."""
    until = time.monotonic() + LEAVE_WITHIN_S
    while (left := groups()) and time.monotonic() < until:
        for group in left:
            remove(group.id)
        time.sleep(0.2)
