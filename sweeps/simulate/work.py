"""Stages and evaluations that take virtual time and end with made-up scores."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.store import Damaged, Record
from evaluators.entries import EVALUATIONS
from sweeps.budget import Bill
from sweeps.config import SweepConfig
from sweeps.failures import Failed, reason
from sweeps.ledger import Event, told
from sweeps.lineage import Lineage, Order
from sweeps.scales import Params
from sweeps.simulate.surfaces import Surface
from sweeps.simulate.world import World
from trainers.config import ResourcesConfig
from trainers.job import StageJob, kind_of

TOKENS_PER_DEVICE_SECOND = 1000
"""In a simulation tokens stand for cost alone, so that the plan of a stage is what it will cost."""


@dataclass(frozen=True)
class Trial:
    """What an evaluation is of."""

    config: SweepConfig
    params: Params
    stages: Sequence[str]


class SimulatedWork:
    """Who trains and evaluates for the graph of a simulation. What began before the simulation was cut off ends when it
    would have ended."""

    def __init__(self, config: SweepConfig, surface: Surface, world: World, events: Iterable[Event], past: "Past") -> None:
        self._config = config
        self._surface = surface
        self._world = world
        self._begun = begun(events)
        self._past = past
        evaluate = config.resources.pool("evaluate")
        self._devices = evaluate.gpus_per_worker or evaluate.cpus_per_worker
        self._trials: dict[str, Trial] = {}

    def expect(self, path: Lineage, config: SweepConfig, params: Params) -> None:
        """Say which trial an evaluation is of, before it is asked for."""
        trial = Trial(config, params, path.keys)
        self._trials |= {order.evaluation: trial for order in path.orders}

    def tokens(self, job: StageJob) -> int:
        """What the plan counts a stage as."""
        return round(self._seconds(job) * TOKENS_PER_DEVICE_SECOND)

    def train(self, job: StageJob, pool: ResourcesConfig) -> Any:
        return asyncio.ensure_future(self._trained(job, pool))

    async def trained(self, running: Any) -> Record:
        try:
            return dict(await running)
        except asyncio.CancelledError:
            if running.cancelled():
                return {"stopped": None}
            raise

    async def elsewhere(self, job: StageJob) -> Record | None:
        raise AssertionError("nobody else trains in a simulation")

    async def evaluate(self, order: Order, generated: bool, bill: Bill) -> Record:
        trial = self._trials.pop(order.evaluation)
        seconds = self._world.evaluation_seconds(order.evaluation) * order.share / len(trial.config.evaluate.benchmarks)
        bill.seconds += self._devices * await self._pass(("rung", order.stage), seconds / self._devices)
        truth = self._surface.at(trial.config, trial.params, order.share)
        stages = [stage_of(key) for key in trial.stages]  # the luck of a seed is there from the beginning
        score = self._world.measured(order.name, truth[order.name], trial.config, stages, stages[-1], order.share)
        return {"scores": {order.name: score}, "device_seconds": seconds}

    @property
    def judging(self) -> int:
        return 0

    def cancel(self, running: Any, force: bool) -> None:
        running.cancel()

    def failure(self, error: BaseException) -> Failed | Damaged:
        return Failed(reason(error), again=False)

    async def _trained(self, job: StageJob, pool: ResourcesConfig) -> Record:
        seconds = self._seconds(job)
        await self._pass(("stage", job.end), seconds / pool.devices)
        about = {"pool": pool.accelerator_name, "max_length": job.train.max_length}
        return about | {"device_seconds": seconds, "tokens": round(seconds * TOKENS_PER_DEVICE_SECOND)}

    def _seconds(self, job: StageJob) -> float:
        """Device-seconds of a stage, or of its part up to a rung, less those of the rungs that it has reached."""
        whole = self._world.stage_seconds(job, self._config)
        done = max((share for share in self._past.rungs(job.key) if share < job.until), default=0.0)
        return whole * (job.until - done)

    async def _pass(self, what: tuple[str, str], seconds: float) -> float:
        """Wait until something ends that takes so long; the seconds that were left of it."""
        now = asyncio.get_running_loop().time()
        left = max(0.0, self._begun.get(what, now) + seconds - now)
        await asyncio.sleep(left)
        return left


class Past:
    """The results of a simulation, as the ledger tells them: they are in no store."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        self._rungs: dict[str, set[float]] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Learn from an event."""
        if event["event"] == "stage_finished":
            self._records[kind_of(event["key"]), event["key"]] = told(event)
            stage, _, rung = event["key"].partition("@")
            self._rungs.setdefault(stage, set()).add(float(rung or 1))
        elif event["event"] == "rung_finished":
            scores = told(event)["scores"]
            for name, key in event["evaluations"].items():
                self._records[EVALUATIONS, key] = {"scores": {name: scores[name]}, "device_seconds": 0.0}

    def record(self, kind: str, key: str) -> Record | None:
        return self._records.get((kind, key))

    def rungs(self, stage: str) -> set[float]:
        """The shares of a stage after which it was scored."""
        return self._rungs.get(stage, set())

    def fetch(self, kind: str, key: str) -> Path:
        """A folder without files: a simulation has no items to show."""
        return Path("/nonexistent")

    def damage(self) -> list[Mapping[str, Any]]:
        return []


def stage_of(key: str) -> str:
    """The stage, or its evaluation, that a rung is of."""
    return key.partition("@")[0]


def begun(events: Iterable[Event]) -> dict[tuple[str, str], float]:
    """When what had not finished was begun, by what it is and its key: a stage, or the evaluation of a checkpoint."""
    first: dict[tuple[str, str], float] = {}
    for event in events:
        what, _, how = event["event"].partition("_")
        if what in ("stage", "rung") and how == "started":
            first.setdefault((what, event["key"]), event["time"])
        elif what in ("stage", "rung") and how == "finished":
            first.pop((what, event["key"]), None)
    return first
