"""Finding and removing what no live stage owns: placement groups, actors and processes that Ray leaves behind.

A placement group goes when its creator *and* the job are dead, so a stage that is killed while the sweep runs can keep its
devices, and one that still waits for devices takes them later. The creator of a stage's group is the controller of its
Train run: a group whose controller is dead, or has made a newer group since, belongs to nobody.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

MARK = "FULCRUM_RUN"
SETTLES_IN_S = 3.0


@dataclass(frozen=True)
class Group:
    """A placement group that holds devices or waits for them. `creator` is the actor that made it, empty for the driver."""

    id: str
    creator: str
    orphan: bool
    created: float


def groups() -> list[Group]:
    """The placement groups of this job that are not removed."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job, found = ray.get_runtime_context().get_job_id(), []
    for text in state._connect_and_get_accessor().get_placement_group_table():
        about = PlacementGroupTableData.FromString(text)
        name, creator = about.placement_group_id.hex(), about.creator_actor_id.hex()
        if name.endswith(job) and about.state != PlacementGroupTableData.REMOVED:
            made_by = "" if set(creator) <= {"f"} else creator
            orphan = bool(made_by) and (about.creator_actor_dead or _is_dead(made_by))
            found.append(Group(name, made_by, orphan, about.stats.creation_request_received_ns / 1e9))
    return found


def unowned(found: list[Group]) -> list[Group]:
    """Groups whose creator is dead, or has made another one since: a Train run has one worker group at a time."""
    newest = {group.creator: max(g.created for g in found if g.creator == group.creator) for group in found}
    return [g for g in found if g.orphan or (g.creator and g.created < newest[g.creator])]


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


def _is_dead(actor: str) -> bool:
    from ray._private.state import actors

    return (actors(actor) or {}).get("State") == "DEAD"
