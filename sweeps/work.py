"""Who trains and evaluates for a stage graph: Ray's tasks and actors, or a simulation."""

from typing import Any, Protocol

from data.store import Record, Unusable
from sweeps.budget import Bill
from sweeps.failures import Failed
from sweeps.lineage import Order
from trainers.config import ResourcesConfig
from trainers.job import StageJob


class Work(Protocol):
    """Who trains and evaluates for a graph."""

    def train(self, job: StageJob, pool: ResourcesConfig) -> Any:
        """Begin to train a stage; a handle to what runs."""

    async def trained(self, running: Any) -> Record:
        """The record of a stage once it is trained; `stopped` stands in it where it was cancelled or stopped itself, and
        `elsewhere` where another run trains it."""

    async def elsewhere(self, job: StageJob) -> Record | None:
        """The record of a stage that another run trains; None where that run gave it up."""

    async def evaluate(self, order: Order, generated: bool, bill: Bill) -> Record:
        """The record of an evaluation by one benchmark, `generated` where its answers are in the store; what it costs goes on
        the bill."""

    @property
    def judging(self) -> int:
        """Checkpoints that wait for a judge and hold no device."""

    def cancel(self, running: Any, force: bool) -> None:
        """End the training of a stage."""

    def failure(self, error: BaseException) -> Failed | Unusable:
        """What an error of a stage or an evaluation was."""
