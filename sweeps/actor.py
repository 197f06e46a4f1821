"""The stage graph as an actor on the head of a Ray cluster. When it dies, its stages die with it; it comes back without memory,
and trials ask it again."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayTaskError, TaskCancelledError

from data.store import Record, Unusable
from sweeps.admission import Resources
from sweeps.budget import Spent
from sweeps.failures import Failed, reason
from sweeps.graph import Graph
from sweeps.lineage import Lineage
from sweeps.tasks import HOLDS_NOTHING, device_options, evaluate_checkpoint, stage_options, train_stage, trained_elsewhere
from sweeps.terms import Terms
from trainers.config import ResourcesConfig
from trainers.job import StageJob


class RayWork:
    """Stages and evaluations as Ray tasks; a handle is the reference to one."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._graph = ray.get_runtime_context().current_actor

    def train(self, job: StageJob, pool: ResourcesConfig) -> Any:
        return train_stage.options(**stage_options(pool)).remote(job, pool, self._graph, self._owner)

    async def trained(self, running: Any) -> Record:
        try:
            return dict(await running)
        except TaskCancelledError:
            return {"stopped": None}

    async def elsewhere(self, job: StageJob) -> Record | None:
        theirs = await trained_elsewhere.options(**HOLDS_NOTHING).remote(job.store, job.key)
        return dict(theirs) if theirs else None

    async def evaluate(self, lineage: Lineage, pool: ResourcesConfig, devices: float) -> Record:
        return dict(await evaluate_checkpoint.options(**device_options(pool)).remote(lineage, devices))

    def cancel(self, running: Any, force: bool) -> None:
        ray.cancel(running, force=force)

    def failure(self, error: BaseException) -> Failed | Unusable:
        """An error of a task as what it is, without Ray's wrapping."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, Failed | Unusable):
            return cause
        return Failed(reason(error), again=True, lost=isinstance(cause, NodeDiedError))


@ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1, max_task_retries=0)
class StageGraph(Graph):
    """The actor. Its asynchronous methods are those of the graph."""

    def __init__(self, terms: Terms, nodes: Sequence[Resources], spent: Spent) -> None:
        super().__init__(terms, nodes, spent, RayWork(terms.owner))
