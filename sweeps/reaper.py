"""Finding and removing what no live stage owns: placement groups, actors and processes that Ray leaves behind.

A placement group that a task has made goes when the whole job ends, so a stage that is killed while the sweep runs keeps its
devices, and one that still waits for devices takes them later. The name of a stage's group says which Ray worker owns it: a
group whose owner is dead belongs to nobody. Actors need no reaper: Ray ends those whose owner is dead, and none is detached.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from trainers.job import OWNED

MARK = "FULCRUM_RUN"
SETTLES_IN_S = 3.0


@dataclass(frozen=True)
class Group:
    """A placement group that holds devices or waits for them. `owner` is a Ray worker, empty where no stage made it."""

    id: str
    owner: str


def groups() -> list[Group]:
    """The placement groups of this job that are not removed."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job, found = ray.get_runtime_context().get_job_id(), []
    for text in state._connect_and_get_accessor().get_placement_group_table():
        about = PlacementGroupTableData.FromString(text)
        name = about.placement_group_id.hex()
        if name.endswith(job) and about.state != PlacementGroupTableData.REMOVED:
            found.append(Group(name, about.name.removeprefix(OWNED) if about.name.startswith(OWNED) else ""))
    return found


def unowned(found: list[Group]) -> list[Group]:
    """Groups of stages whose owner is dead."""
    return [group for group in found if group.owner and not _lives(group.owner)]


def remove(group: str) -> None:
    """Remove a placement group by its id; it gives its devices back, whatever runs in it."""
    from ray._raylet import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


class Reaper:
    """Removes what was found without an owner twice in a row: Ray's own clean-up comes first.

    `mark` stands in the environment of all processes of this sweep, as FULCRUM_RUN.
    """

    def __init__(self, mark: str = "") -> None:
        self._mark = mark
        self._seen: set[str] = set()
        self._searches: list[Any] = []

    def reap(self) -> list[str]:
        """Look once; what was removed, in words."""
        found = {group.id for group in unowned(groups())}
        removed = found & self._seen
        for group in removed:
            remove(group)
        self._seen = found - removed
        return [f"placement group {group}" for group in sorted(removed)] + self._ended()

    def search(self) -> None:
        """Look on every node for processes that outlived their parents: a stage has just failed or was stopped."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = ray.remote(num_cpus=0, max_retries=0)(end_orphans)
        for node in [node["NodeID"] for node in ray.nodes() if node["Alive"]]:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            self._searches.append(look.options(scheduling_strategy=there).remote(self._mark))

    def _ended(self) -> list[str]:
        """What the searches that are over have ended."""
        if not self._searches:
            return []
        import ray
        from ray.exceptions import RayError

        told: list[str] = []
        over, self._searches = ray.wait(self._searches, num_returns=len(self._searches), timeout=0)
        for search in over:
            try:
                told += ray.get(search)
            except RayError:  # the node went away, and its processes with it
                continue
        return told


def end_orphans(mark: str) -> list[str]:
    """Kill the processes of a sweep on this machine that no raylet is above any more; what they were, in words.

    Only those that are still there after a while: a process may be about to end.
    """
    before = {process.pid for process in orphans(mark)}
    time.sleep(SETTLES_IN_S if before else 0)
    ended = []
    for process in orphans(mark):
        if process.pid in before:
            with suppress(psutil.NoSuchProcess):
                ended.append(f"process {process.pid} ({' '.join(process.cmdline())[:80]}) on {socket.gethostname()}")
                process.kill()
    return ended


def orphans(mark: str) -> list[psutil.Process]:
    """Processes with the mark of a sweep that are no descendants of a raylet."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
            if ours and not any(parent.name().startswith("raylet") for parent in process.parents()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _lives(worker: str) -> bool:
    from ray import WorkerID
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import WorkerTableData

    text = state._connect_and_get_accessor().get_worker_info(WorkerID.from_hex(worker))
    return text is not None and bool(WorkerTableData.FromString(text).is_alive)
