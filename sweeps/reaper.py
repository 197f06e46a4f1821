"""Finding and removing what no live stage owns: placement groups, actors and processes that Ray leaves behind.

A placement group goes when its creator *and* the job are dead, so a stage that is killed while the sweep runs can keep its
devices, and one that still waits for devices takes them later. The creator of a stage's group is the controller of its
Train run: a group whose controller is dead, or has made a newer group since, belongs to nobody.
"""

from dataclasses import dataclass

GONE = "REMOVED"


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
    dead = _dead_actors()
    for text in state._connect_and_get_accessor().get_placement_group_table():
        about = PlacementGroupTableData.FromString(text)
        name, creator = about.placement_group_id.hex(), about.creator_actor_id.hex()
        if name.endswith(job) and about.state != PlacementGroupTableData.REMOVED:
            made_by = "" if set(creator) <= {"f"} else creator
            orphan = bool(made_by) and (about.creator_actor_dead or made_by in dead)
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
    """Removes what was found without an owner twice in a row: Ray's own clean-up comes first."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def reap(self) -> list[str]:
        """Look once; what was removed, in words."""
        found = {group.id for group in unowned(groups())}
        removed = found & self._seen
        for group in removed:
            remove(group)
        self._seen = found - removed
        return [f"placement group {group}" for group in sorted(removed)]


def _dead_actors() -> set[str]:
    from ray._private.state import actors

    return {name for name, about in actors().items() if about["State"] == "DEAD"}
