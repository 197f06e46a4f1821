"""Evaluation on Ray: warm actors generate, tasks without a device score.

An actor works in a slot of the pool and stays warm across trials. Where it holds a GPU it gives it back, and ends, as soon as
somebody waits for the slot or nothing came for `IDLE_S`; without GPUs it waits outside of the slot and holds nothing. The items
of a benchmark go to the actors in chunks. An actor that is killed loses the chunk it worked on, which is given out again.
The stage graph runs all this, so here is no torch and no I/O but in the actors and tasks.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from data.store import Record
from evaluators.config import CODE_BENCHMARKS
from sweeps.admission import Slots
from sweeps.budget import Bill
from sweeps.evaluation import Generation, score
from sweeps.lineage import Order
from sweeps.tasks import device_options
from trainers.config import ResourcesConfig

IDLE_S = 60.0
ATTEMPTS = 3
"""How often a chunk is given out in each try of its evaluation: one that kills every actor is not the actors' fault."""
CHUNKS_TO_START_FOR = 2
"""Waiting chunks that are worth the start of one more actor."""
LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)


@dataclass
class _Job:
    order: Order
    bill: Bill
    done: "asyncio.Future[Any]"
    attempts: int = 0


class _Warm:
    """An actor that is started when it is first needed, and the checkpoint it has open."""

    def __init__(self, holds: Mapping[str, Any]) -> None:
        self._holds = holds
        self.actor: Any = None
        self.stage = ""

    def there(self) -> Any:
        if self.actor is None:
            self.actor = Generation.options(**self._holds).remote()  # type: ignore[attr-defined]
        return self.actor

    def end(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)
        self.actor, self.stage = None, ""


class Generators:
    """The warm actors of a pool. Lives in the graph's event loop."""

    def __init__(self, slots: Slots, resources: ResourcesConfig) -> None:
        self._slots = slots
        self._devices = resources.gpus_per_worker or resources.cpus_per_worker
        self._cpus = resources.cpus_per_worker
        self._on_gpu = resources.gpus_per_worker > 0
        held = device_options(resources) if self._on_gpu else {"num_cpus": 0}
        self._holds = held | {"scheduling_strategy": "DEFAULT" if self._on_gpu else "SPREAD"}
        self._queue: deque[_Job] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._scoring: Counter[str] = Counter()
        self._closed = False

    @property
    def scoring(self) -> int:
        """Checkpoints that wait for a judge, or for other scoring that holds no device."""
        return len(+self._scoring)

    async def evaluate(self, order: Order, generated: bool, bill: Bill) -> Record:
        """The record of an evaluation. A generation that the store holds is scored as it is."""
        refs, about = ([], {}) if generated else await self._generated(order, bill)
        about |= {"benchmark": order.name, "device_seconds": bill.seconds, "lost": bill.lost}
        try:
            record = await self._scored(order, about, refs, bill)
        except Exception as error:
            bill.judging += filter(None, [getattr(getattr(error, "cause", None) or error, "cost", None)])
            raise
        bill.judging += filter(None, [record.get("cost")])
        return record

    async def close(self) -> None:
        """End every actor."""
        self._closed = True
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _generated(self, order: Order, bill: Bill) -> tuple[list[Any], dict[str, Any]]:
        """References to the answers of each chunk, and what answered."""
        loop = asyncio.get_running_loop()
        jobs = [_Job(chunk, bill, loop.create_future()) for chunk in order.chunks]
        self._queue.extend(jobs)
        self._slots.stir.set()
        self._hire()
        try:
            made = await asyncio.gather(*(job.done for job in jobs))
        except BaseException:
            self._forget(jobs)
            raise
        return [answers for _, answers in made], dict(made[0][0])

    async def _scored(self, order: Order, about: Record, refs: Sequence[Any], bill: Bill) -> Record:
        """Scoring holds no generation slot. Running code takes a CPU, which is the device where there are no GPUs."""
        runs_code = order.name in CODE_BENCHMARKS
        submit = score.options(num_cpus=self._cpus if runs_code else 0, scheduling_strategy="DEFAULT").remote
        if self._on_gpu or not runs_code:
            self._scoring[order.stage] += 1
            try:
                return dict(await submit(order, about, *refs))
            finally:
                self._scoring[order.stage] -= 1
        async with self._slots:
            started = time.monotonic()
            try:
                return dict(await submit(order, about, *refs))
            finally:
                bill.seconds += self._devices * (time.monotonic() - started)

    def _hire(self) -> None:
        """As many workers as the queue is worth and the pool has slots."""
        while len(self._workers) < min(self._slots.count, self._busy + ceil(len(self._queue) / CHUNKS_TO_START_FOR)):
            worker = asyncio.ensure_future(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._gone)

    async def _work(self) -> None:
        """One actor's life. It works in a slot; while it waits for more it stays in the slot only if it holds a GPU."""
        warm = _Warm(self._holds)
        try:
            while True:
                await self._slots.acquire_quietly()
                try:
                    while self._queue or (self._on_gpu and warm.actor and await self._more(self._slots.leave)):
                        await self._do(self._next(warm.stage), warm)
                finally:
                    if self._on_gpu:
                        warm.end()
                    self._slots.release()
                if self._on_gpu or not await self._more(lambda: False):
                    return
        finally:
            warm.end()

    async def _do(self, job: _Job, warm: _Warm) -> None:
        """Have an actor work on a job. A job whose actor is lost is the first to be given out again."""
        started = time.monotonic()
        job.attempts += 1
        self._busy += 1
        try:
            about, answers = warm.there().generate.remote(job.order)
            told = await about
            warm.stage = job.order.stage
            _settle(job.done, (told, answers))
        except Exception as error:
            # An error of the work itself arrives as a RayTaskError, whatever its cause.
            lost = isinstance(error, LOST) and not isinstance(error, RayTaskError)
            job.bill.lost += lost
            if lost:
                warm.end()
            if lost and job.attempts < ATTEMPTS and not job.done.done():
                self._queue.appendleft(job)
            else:
                _settle(job.done, error)
        finally:
            self._busy -= 1
            job.bill.seconds += self._devices * (time.monotonic() - started)

    async def _more(self, leave: Callable[[], bool]) -> bool:
        """Wait for work: false where it does not come in time, or the place is wanted."""
        loop = asyncio.get_running_loop()
        until = loop.time() + IDLE_S
        while not self._queue:
            if leave() or loop.time() >= until:
                return False
            self._slots.stir.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._slots.stir.wait(), until - loop.time())
        return True

    def _next(self, opened: str) -> _Job:
        """The first job of the checkpoint that is open, else the first of all."""
        job = next((job for job in self._queue if job.order.stage == opened), self._queue[0])
        self._queue.remove(job)
        return job

    def _forget(self, jobs: Sequence[_Job]) -> None:
        """Drop what is left of an evaluation that has failed."""
        for job in jobs:
            job.done.cancel()
            if job in self._queue:
                self._queue.remove(job)

    def _gone(self, worker: "asyncio.Task[None]") -> None:
        """A worker has ended. An error of its own is that of whoever waits: nobody would be told otherwise."""
        self._workers.discard(worker)
        error = None if worker.cancelled() else worker.exception()
        while error is not None and self._queue:
            _settle(self._queue.popleft().done, error)
        if not self._closed:
            self._hire()  # for what came while it went


def _settle(done: "asyncio.Future[Any]", result: Any) -> None:
    """Give a result or an error to who waits, if anybody still does."""
    if done.done():
        return
    if isinstance(result, BaseException):
        done.set_exception(result)
    else:
        done.set_result(result)
