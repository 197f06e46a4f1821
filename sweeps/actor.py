"""The stage graph as an actor on the head of a Ray cluster. When it dies, its stages die with it; it comes back without memory,
and trials ask it again."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayTaskError, TaskCancelledError

from data.store import Record, Unusable
from sweeps.admission import Resources, Slots
from sweeps.budget import Bill, Spent
from sweeps.failures import Failed, reason
from sweeps.generators import Generators
from sweeps.graph import Graph
from sweeps.lineage import Order
from sweeps.tasks import HOLDS_NOTHING, stage_options, train_stage, trained_elsewhere
from sweeps.terms import Terms
from trainers.config import ResourcesConfig
from trainers.failures import FINAL
from trainers.job import StageJob


class RayWork:
    """Stages as Ray tasks, evaluations by warm actors; the handle of a stage is the reference to its task."""

    def __init__(self, terms: Terms, slots: Slots) -> None:
        self._owner = terms.owner
        self._graph = ray.get_runtime_context().current_actor
        self._generators = Generators(slots, terms.resources.pool("evaluate"))

    @property
    def judging(self) -> int:
        return self._generators.scoring

    def train(self, job: StageJob, pool: ResourcesConfig) -> Any:
        return train_stage.options(**stage_options(pool)).remote(job, pool, self._graph, self._owner)

    async def trained(self, running: Any) -> Record:
        try:
            return dict(await running)
        except TaskCancelledError:
            return {"stopped": None}

    async def elsewhere(self, job: StageJob) -> Record | None:
        theirs = await trained_elsewhere.options(**HOLDS_NOTHING).remote(job)
        return dict(theirs) if theirs else None

    async def evaluate(self, order: Order, generated: bool, bill: Bill) -> Record:
        return await self._generators.evaluate(order, generated, bill)

    def cancel(self, running: Any, force: bool) -> None:
        ray.cancel(running, force=force)

    def failure(self, error: BaseException) -> Failed | Unusable:
        """An error of a task as what it is, without Ray's wrapping."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, Failed | Unusable):
            return cause
        return Failed(reason(error), again=not isinstance(cause, FINAL), lost=isinstance(cause, NodeDiedError))


@ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1, max_task_retries=0)
class StageGraph(Graph):
    """The actor. Its asynchronous methods are those of the graph."""

    def __init__(self, terms: Terms, nodes: Sequence[Resources], spent: Spent) -> None:
        super().__init__(terms, nodes, spent, partial(RayWork, terms))
