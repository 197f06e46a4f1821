"""Stages and evaluations that take virtual time and end with made-up scores."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.store import Damaged, Record
from sweeps.config import SweepConfig
from sweeps.failures import Failed, reason
from sweeps.ledger import Event, told
from sweeps.lineage import EVALUATIONS, Lineage
from sweeps.scales import Params
from sweeps.simulate.surfaces import Surface
from sweeps.simulate.world import World
from trainers.config import ResourcesConfig
from trainers.job import KIND, StageJob

TOKENS_PER_DEVICE_SECOND = 1000
"""In a simulation tokens stand for cost alone, so that the plan of a stage is what it will cost."""


class SimulatedWork:
    """Who trains and evaluates for the graph of a simulation. What began before the simulation was cut off ends when it
    would have ended."""

    def __init__(self, config: SweepConfig, surface: Surface, world: World, events: Iterable[Event]) -> None:
        self._config = config
        self._surface = surface
        self._world = world
        self._begun = begun(events)
        self._trials: dict[str, tuple[SweepConfig, Params]] = {}

    def expect(self, evaluation: str, config: SweepConfig, params: Params) -> None:
        """Say which trial an evaluation is of, before it is asked for."""
        self._trials[evaluation] = (config, params)

    def tokens(self, job: StageJob) -> int:
        """What the plan counts a stage as."""
        return round(self._world.stage_seconds(job, self._config) * TOKENS_PER_DEVICE_SECOND)

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

    async def evaluate(self, lineage: Lineage, pool: ResourcesConfig, devices: float) -> Record:
        seconds = self._world.evaluation_seconds(lineage.evaluation)
        await self._pass(lineage.evaluation, seconds / devices)
        config, params = self._trials[lineage.evaluation]
        truth = self._surface.truth(config, params)
        return {"scores": self._world.measured(truth, config, lineage.keys, lineage.evaluation), "device_seconds": seconds}

    def cancel(self, running: Any, force: bool) -> None:
        running.cancel()

    def failure(self, error: BaseException) -> Failed | Damaged:
        return Failed(reason(error), again=False)

    async def _trained(self, job: StageJob, pool: ResourcesConfig) -> Record:
        seconds = self._world.stage_seconds(job, self._config)
        await self._pass(job.key, seconds / pool.devices)
        about = {"pool": pool.accelerator_name, "max_length": job.train.max_length}
        return about | {"device_seconds": seconds, "tokens": round(seconds * TOKENS_PER_DEVICE_SECOND)}

    async def _pass(self, key: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._begun.pop(key, now) + seconds - now))


class Past:
    """The results of a simulation, as the ledger tells them: they are in no store."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Learn from an event."""
        if event["event"] == "stage_finished":
            self._records[KIND, event["key"]] = told(event)
        elif event["event"] == "rung_finished":
            self._records[EVALUATIONS, event["evaluation"]] = told(event)

    def record(self, kind: str, key: str) -> Record | None:
        return self._records.get((kind, key))

    def fetch(self, kind: str, key: str) -> Path:
        """A folder without files: a simulation has no items to show."""
        return Path("/nonexistent")

    def damage(self) -> list[Mapping[str, Any]]:
        return []


def begun(events: Iterable[Event]) -> dict[str, float]:
    """When what had not finished was begun, by key of the stage or evaluation."""
    first: dict[str, float] = {}
    for event in events:
        key = event.get("evaluation") or event.get("key")
        if event["event"] in ("stage_started", "rung_started"):
            first.setdefault(str(key), event["time"])
        elif event["event"] in ("stage_finished", "rung_finished"):
            first.pop(str(key), None)
    return first
