"""The stage graph: all trials of a sweep laid over each other, each stage trained once, whichever trials need it.

One small actor. It imports no torch and does no I/O: trials look into the store for it. A waiting stage is a coroutine here,
not a process; it is handed to Ray when a slot of the pool is free. When the actor dies, its stages die with it, and trials
ask the new one again.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from data.store import Record
from sweeps.evaluation import Bill, spent
from sweeps.generators import Generators
from sweeps.ledger import told
from sweeps.lineage import Lineage, Order, merged
from sweeps.slots import Slots
from sweeps.tasks import stage_options, train_stage
from trainers.config import ResourcesConfig
from trainers.job import StageJob


@dataclass(frozen=True)
class Known:
    """Records of a lineage that the store already holds, by key."""

    records: Mapping[str, Record]


@ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1, max_task_retries=0)
class StageGraph:
    """Hands the result of a key to everyone who asks for it; the first who asks is charged."""

    def __init__(self, resources: ResourcesConfig, slots: int) -> None:
        self._resources = resources
        self._slots = Slots(slots)
        self._generators = Generators(self._slots, resources)
        self._made: dict[str, asyncio.Task[Record]] = {}
        self._events: list[dict[str, Any]] = []
        self._progress: dict[str, dict[str, Any]] = {}
        self._life = uuid.uuid4().hex  # a graph that died comes back with no memory
        self._me: Any = ray.get_runtime_context().current_actor

    async def want(self, trial: int, lineage: Lineage, known: Known) -> Record:
        """The record of a lineage's evaluation, with every stage on the way to it made at most once."""
        await self.want_stages(trial, lineage, known)
        return await self._once(lineage.evaluation, known, lambda: self._evaluate(trial, lineage, known))

    async def want_stages(self, trial: int, lineage: Lineage, known: Known) -> Record:
        """The record of a lineage's last stage."""
        for job in lineage.jobs:
            record = await self._once(job.key, known, partial(self._train, trial, job, lineage.strategy))
        return record

    async def news(self, life: str, seen: int) -> tuple[str, list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """This actor's life, its events after the first `seen` of that life, and the progress of the running stages."""
        return self._life, self._events[seen if life == self._life else 0 :], dict(self._progress)

    async def progress(self, key: str, progress: dict[str, Any]) -> None:
        """Told by the worker that trains a stage."""
        self._tell(key, progress)
        self._progress[key] = progress

    async def _once(self, key: str, known: Known, make: Callable[[], Awaitable[Record]]) -> Record:
        if key not in self._made and key in known.records:
            return known.records[key]
        if key not in self._made:
            self._made[key] = asyncio.ensure_future(make())
        making = self._made[key]
        try:
            return await asyncio.shield(making)
        except Exception:
            if self._made.get(key) is making:
                del self._made[key]  # forgotten, so that who asks next makes it anew
            raise

    async def _train(self, trial: int, job: StageJob, strategy: str) -> Record:
        mixture = {share.name: share.fraction for share in job.shares}
        about = {"key": job.key, "parent": job.parent, "strategy": strategy, "mixture": mixture, "trial": trial}
        make = train_stage.options(**stage_options(self._resources))
        try:
            return await self._held("stage", about, lambda: make.remote(job, self._resources, self._me), job.devices)
        finally:
            self._progress.pop(job.key, None)

    async def _evaluate(self, trial: int, lineage: Lineage, known: Known) -> Record:
        """The scores of all benchmarks. Each is published as soon as it is there, whatever becomes of the others."""
        about = {"key": lineage.keys[-1], "fraction": 1.0, "trial": trial, "evaluations": lineage.evaluations}
        self._note("rung_started", about)
        bills = [Bill() for _ in lineage.orders]
        making = (self._benchmark(*one, known) for one in zip(lineage.orders, bills, strict=True))
        made = await asyncio.gather(*making, return_exceptions=True)
        for error in made:
            if isinstance(error, BaseException):
                self._note("rung_failed", about, **spent(bills), error=reason(error))
                raise error
        # What others have paid for parts of this rung is on their bills.
        record: Record = merged(one for one in made if isinstance(one, dict)) | spent(bills)
        self._note("rung_finished", about, **told(record))
        return record

    async def _benchmark(self, order: Order, bill: Bill, known: Known) -> Record:
        generated = order.generation in known.records
        return await self._once(order.evaluation, known, lambda: self._generators.evaluate(order, generated, bill))

    async def _held(self, what: str, about: dict[str, Any], submit: Callable[[], Any], devices: float) -> Record:
        """Run one task in a slot of the pool and note its start and its end, with the device-seconds that it took."""
        async with self._slots:
            self._note(f"{what}_started", about)
            started = time.monotonic()
            try:
                record: Record = await submit()
            except Exception as error:
                spent = devices * (time.monotonic() - started)
                self._note(f"{what}_failed", about, device_seconds=spent, error=reason(error))
                raise
            spent = devices * (time.monotonic() - started)  # retries of Ray included
            self._note(f"{what}_finished", about, **told(record) | {"device_seconds": spent})
            return record

    def _tell(self, key: str, progress: dict[str, Any]) -> None:
        """Note what happened to a stage, and its numbers about ten times on the way."""
        for text in progress.pop("notes", ()):
            self._note("stage_note", {"key": key}, text=text)
        tenth = 10 * progress["step"] // progress["steps"]
        if tenth > 10 * self._progress.get(key, {}).get("step", 0) // progress["steps"]:
            self._note("stage_progress", {"key": key}, **progress)

    def _note(self, event: str, about: dict[str, Any], **more: Any) -> None:
        self._events.append({"event": event, **about, **more})


def reason(error: BaseException) -> str:
    """The line that says what went wrong, without Ray's wrapping and traceback."""
    cause = getattr(error, "cause", None) or error
    inner = getattr(cause, "worker_failures", None)
    if isinstance(inner, dict) and inner:
        cause = next(iter(inner.values()))
        cause = getattr(cause, "_base_exc", None) or cause
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"[:500]
