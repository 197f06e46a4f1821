"""Stages and evaluations that take virtual time and end with made-up scores."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Trial:
    """What an evaluation is of: a trial, after a share of its last stage and on that share of the items."""

    config: SweepConfig
    params: Params
    share: float = 1.0


class SimulatedWork:
    """Who trains and evaluates for the graph of a simulation. What began before the simulation was cut off ends when it
    would have ended."""

    def __init__(self, config: SweepConfig, surface: Surface, world: World, events: Iterable[Event], past: "Past") -> None:
        self._config = config
        self._surface = surface
        self._world = world
        self._begun = begun(events)
        self._past = past
        self._trials: dict[str, Trial] = {}

    def expect(self, evaluation: str, trial: Trial) -> None:
        """Say which trial an evaluation is of, before it is asked for."""
        self._trials[evaluation] = trial

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

    async def evaluate(self, lineage: Lineage, pool: ResourcesConfig, devices: float) -> Record:
        trial = self._trials[lineage.evaluation]
        seconds = self._world.evaluation_seconds(lineage.evaluation) * trial.share
        await self._pass(lineage.evaluation, seconds / devices)
        truth = self._surface.at(trial.config, trial.params, trial.share)
        stages = [stage_of(key) for key in lineage.keys]  # the luck of a seed is there from the beginning
        scores = self._world.measured(truth, trial.config, stages, stage_of(lineage.evaluation), trial.share)
        return {"scores": scores, "device_seconds": seconds}

    def cancel(self, running: Any, force: bool) -> None:
        running.cancel()

    def failure(self, error: BaseException) -> Failed | Damaged:
        return Failed(reason(error), again=False)

    async def _trained(self, job: StageJob, pool: ResourcesConfig) -> Record:
        seconds = self._seconds(job)
        await self._pass(job.key, seconds / pool.devices)
        about = {"pool": pool.accelerator_name, "max_length": job.train.max_length}
        return about | {"device_seconds": seconds, "tokens": round(seconds * TOKENS_PER_DEVICE_SECOND)}

    def _seconds(self, job: StageJob) -> float:
        """Device-seconds of a stage, or of its part up to a rung, less those of the rungs that it has reached."""
        stage, _, rung = job.key.partition("@")
        whole = self._world.stage_seconds(replace(job, key=stage), self._config)
        done = max((share for share in self._past.rungs(stage) if share < float(rung or 1)), default=0.0)
        return whole * (float(rung or 1) - done)

    async def _pass(self, key: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._begun.pop(key, now) + seconds - now))


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
            self._records[KIND, event["key"]] = told(event)
            stage, _, rung = event["key"].partition("@")
            self._rungs.setdefault(stage, set()).add(float(rung or 1))
        elif event["event"] == "rung_finished":
            self._records[EVALUATIONS, event["evaluation"]] = told(event)

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
