"""The stage graph: all trials of a sweep laid over each other, each stage trained once, whichever trials need it.

It imports no torch and no Ray and does no I/O: trials look into the store for it. A waiting stage is a coroutine here, not a
process; it is handed over when its pool has room and the budget holds it. In a run it is an actor and hands stages to Ray
(sweeps/actor.py); in a simulation it lives in an event loop with virtual time (sweeps/simulate).
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from data.store import Record, Unusable
from sweeps import budget as budgets
from sweeps.admission import Admission, NoRoom, Resources, Slots, shape
from sweeps.budget import Bill, Budget, Job, Rates, Spent
from sweeps.failures import Failed, reason
from sweeps.ledger import told
from sweeps.lineage import Lineage, Order, merged
from sweeps.terms import Abandoned, Known, News, Stopped, Terms
from sweeps.work import Work
from trainers.config import PoolName
from trainers.job import StageJob

NODES_LOST = 10
"""Times that a stage is begun again because its node died, which is no failure of the stage."""


Attempt = Callable[[list[Bill]], Awaitable[Record]]
"""What is made in a try; it may write bills."""


@dataclass
class Running:
    """A stage in training."""

    handle: Any
    asked_to_stop: Stopped | None = None


class Graph:
    """Hands the result of a key to everyone who asks for it; the first who asks is charged."""

    def __init__(self, terms: Terms, nodes: Sequence[Resources], spent: Spent, work: Callable[[Slots], Work]) -> None:
        """`work` is given the slots of the pool that evaluates."""
        self._terms = terms
        self._pools = {name: terms.resources.pool(name) for name in ("train", "evaluate")}
        self._room = Admission({name: shape(terms.resources, name) for name in ("train", "evaluate")}, nodes)
        self._budget = Budget(terms.budget, spent)
        self._rates = Rates(terms.measured, terms.resources.tokens_per_second)
        self._work = work(Slots(self._room, "evaluate", patience(terms)))
        self._made: dict[str, asyncio.Task[Record]] = {}
        self._wanted: dict[str, set[int | None]] = {}
        self._left: set[int | None] = set()
        self._failed: dict[str, int] = {}
        self._given_up: dict[str, Failed] = {}
        self._running: dict[str, Running] = {}
        self._events: list[dict[str, Any]] = []
        self._progress: dict[str, dict[str, Any]] = {}
        self._life = uuid.uuid4().hex  # a graph that died comes back with no memory

    async def want(self, trial: int | None, lineage: Lineage, known: Known) -> Record:
        """The record of a lineage's evaluation, with every stage on the way to it made at most once.

        `trial` is charged for what is made, None where it is made for no trial. Raises Failed, Unusable or Stopped.
        """
        self._left.discard(trial)  # one that has ended may be measured again, on other items
        await self.want_stages(trial, lineage, known)
        return await self._once(trial, lineage.evaluation, known, lambda: self._evaluate(trial, lineage, known))

    async def want_stages(self, trial: int | None, lineage: Lineage, known: Known) -> Record:
        """The record of a lineage's last stage, empty where it has none."""
        record: Record = {}
        for job in lineage.jobs:
            make = partial(self._train, trial, job, lineage.strategy, known.tokens.get(job.end))
            record = await self._once(trial, job.end, known, make)
        return record

    async def leave(self, trial: int) -> None:
        """A trial has ended. What nobody else wants is stopped."""
        self._left.add(trial)
        for key, trials in list(self._wanted.items()):
            trials.discard(trial)
            if not trials and key in self._made and not self._made[key].done():
                self._stop(key, Abandoned("no trial needs it any more"))

    async def news(self, life: str, seen: int, nodes: Sequence[Resources], spent: Spent) -> News:
        """What has happened; told are the nodes that are there now and what the ledger holds of the cost."""
        fresh = self._events[seen if life == self._life else 0 :]
        self._budget.spent = spent + budgets.spent(fresh)  # the ledger knows nothing of these yet
        self._room.resize(nodes)
        return News(
            life=self._life,
            events=fresh,
            progress=dict(self._progress),
            waiting=self._room.lacking(),
            can_train=self._room.capacity("train"),
            judging=self._work.judging,
        )

    async def progress(self, key: str, progress: dict[str, Any]) -> bool:
        """Told by the worker that trains a stage; whether it is to write a resume point and stop."""
        self._tell(key, progress)
        self._progress[key] = progress
        beyond = self._budget.reached(_now())
        if beyond:
            self._stop(key, Stopped(beyond))
        return key in self._running and self._running[key].asked_to_stop is not None

    async def _once(self, trial: int | None, key: str, known: Known, make: Callable[[], Awaitable[Record]]) -> Record:
        while trial not in self._left:
            if key not in self._made and key in known.records:
                return known.records[key]
            if key not in self._made:
                self._made[key] = asyncio.ensure_future(self._kept_if_good(key, make))
            self._wanted.setdefault(key, set()).add(trial)
            with suppress(Abandoned):
                return await asyncio.shield(self._made[key])
        raise Abandoned(f"trial {trial} has ended")

    async def _kept_if_good(self, key: str, make: Callable[[], Awaitable[Record]]) -> Record:
        try:
            return await make()
        except BaseException as error:
            if self._made.get(key) is asyncio.current_task():
                del self._made[key]  # forgotten, so that who asks next makes it anew
            if isinstance(error, Unusable):
                self._made.pop(error.key, None)  # what was made once is not there any more
            raise
        finally:
            if self._made.get(key) in (None, asyncio.current_task()):
                self._wanted.pop(key, None)

    async def _train(self, trial: int | None, job: StageJob, strategy: str, tokens: int | None) -> Record:
        mixture = {share.name: share.fraction for share in job.shares}
        about = {"key": job.end, "parent": job.parent, "strategy": strategy, "mixture": mixture, "trial": trial}
        pool = self._pools["train"]
        planned = self._rates.device_seconds(tokens, job.base, pool.accelerator_name, job.train.max_length, pool.devices)

        async def submit(bills: list[Bill]) -> Record:
            return await self._followed(job.end, self._work.train(job, pool))

        while True:
            record = await self._held("stage", about, submit, "train", planned)
            if not record.get("elsewhere"):
                self._rates.learn(record)
                return record
            theirs = await self._work.elsewhere(job)
            if theirs:
                return theirs

    async def _evaluate(self, trial: int | None, lineage: Lineage, known: Known) -> Record:
        """The scores of all benchmarks. Each is published as soon as it is there, whatever becomes of the others."""
        about = {"key": lineage.checkpoint, "fraction": lineage.share, "trial": trial, "evaluations": lineage.evaluations}

        async def submit(bills: list[Bill]) -> Record:
            bills += [Bill() for _ in lineage.orders]
            asked = zip(lineage.orders, bills, strict=True)
            wanted = (self._benchmark(trial, order, known, bill) for order, bill in asked)
            made = await asyncio.gather(*wanted, return_exceptions=True)
            for error in made:
                if isinstance(error, NoRoom):
                    return {"stopped": None, "why": Stopped(str(error))}
                if isinstance(error, BaseException):
                    raise error
            return merged(one for one in made if isinstance(one, dict))

        return await self._held("rung", about, submit, "evaluate", None)

    async def _benchmark(self, trial: int | None, order: Order, known: Known, bill: Bill) -> Record:
        generated = order.generation in known.records
        return await self._once(trial, order.evaluation, known, lambda: self._work.evaluate(order, generated, bill))

    async def _followed(self, key: str, handle: Any) -> Record:
        """The result of a stage that can be stopped meanwhile."""
        self._running[key] = running = Running(handle)
        try:
            record = await self._work.trained(handle)
        except Exception:
            if running.asked_to_stop is None:
                raise
            record = {"stopped": None}  # by force
        finally:
            self._running.pop(key, None)
            self._progress.pop(key, None)
        return record | ({"why": running.asked_to_stop or Stopped("it was cancelled")} if "stopped" in record else {})

    async def _held(
        self,
        what: str,
        about: dict[str, Any],
        submit: Attempt,
        pool: PoolName,
        planned: float | None,
    ) -> Record:
        """Train or evaluate, again within limits, and note starts and ends with what they cost.

        A stage holds a slot of its pool; an evaluation takes slots by itself as it needs them, and writes a bill.
        """
        resources = self._pools[pool]
        devices = resources.devices if pool == "train" else 0.0
        name, lost = f"{what} {about['key']}", 0
        if resources.device_hour:
            about = about | {"price": resources.device_hour}
        while name not in self._given_up:
            async with self._slot(pool) if pool == "train" else nullcontext():
                bills: list[Bill] = []
                job = Job(devices, resources.device_hour, planned, _now(), bills)
                self._refuse_beyond_budget(job)
                self._budget.running[name] = job
                self._note(f"{what}_started", about)
                try:
                    record = await submit(bills)
                except Exception as error:
                    failure = self._work.failure(error)
                    self._note(f"{what}_failed", about, **self._ended(name), error=reason(failure))
                except asyncio.CancelledError:
                    self._note(f"{what}_stopped", about, **self._ended(name), step=None, reason="no trial needs it any more")
                    raise
                else:
                    return self._finished(what, about, record, self._ended(name))
            lost += getattr(failure, "lost", False)
            if isinstance(failure, Unusable):
                raise failure
            self._count(name, failure, lost)
        raise self._given_up[name]

    def _finished(self, what: str, about: dict[str, Any], record: Record, cost: dict[str, Any]) -> Record:
        if record.get("elsewhere"):
            self._note(f"{what}_elsewhere", about)
        elif "stopped" in record:
            why = record["why"]
            self._note(f"{what}_stopped", about, **cost, step=record["stopped"], reason=str(why))
            raise why
        else:
            self._note(f"{what}_finished", about, **told(record) | cost)
        return record

    def _ended(self, name: str) -> dict[str, Any]:
        """Forget a running job; what it has cost. Of an evaluation that is what stands on its bills: for parts that it shares
        with others, others may have paid."""
        job = self._budget.running.pop(name)
        spent = job.so_far(_now())
        self._budget.spent += spent  # until the driver says what the ledger holds
        judged = {"cost": job.judging()} if job.bills else {}
        return {"device_seconds": spent.device_seconds} | judged

    def _count(self, name: str, failure: Failed, lost: int) -> None:
        """Give a stage up, for all trials of this run, when it has failed too often or would fail again."""
        if failure.lost and lost <= NODES_LOST:
            return
        self._failed[name] = self._failed.get(name, 0) + 1
        if not failure.again or self._failed[name] > self._terms.resources.retries:
            self._given_up[name] = failure

    def _refuse_beyond_budget(self, job: Job) -> None:
        refused = self._budget.refuses(job, _now())
        if refused:
            raise Stopped(refused)

    @asynccontextmanager
    async def _slot(self, pool: PoolName) -> AsyncIterator[None]:
        try:
            async with self._room.slot(pool, patience(self._terms)):
                yield
        except NoRoom as nothing:
            raise Stopped(str(nothing)) from None

    def _stop(self, key: str, why: Stopped) -> None:
        """Ask a running stage to stop, cancel it if it does not, and kill it if that does not help either."""
        running = self._running.get(key)
        if running is None:  # it waits for a slot
            if key in self._made and not self._made[key].done():
                self._made.pop(key).cancel()
        elif running.asked_to_stop is None:
            running.asked_to_stop = why
            self._enforcing = asyncio.ensure_future(self._enforce(key, running))

    async def _enforce(self, key: str, running: Running) -> None:
        for force in (False, True):
            await asyncio.sleep(self._terms.grace_s)
            if self._running.get(key) is not running:
                return
            self._work.cancel(running.handle, force)

    def _tell(self, key: str, progress: dict[str, Any]) -> None:
        """Note what happened to a stage, and its numbers about ten times on the way."""
        for text in progress.pop("notes", ()):
            self._note("stage_note", {"key": key}, text=text)
        tenth = 10 * progress["step"] // progress["steps"]
        if tenth > 10 * self._progress.get(key, {}).get("step", 0) // progress["steps"]:
            self._note("stage_progress", {"key": key}, **progress)

    def _note(self, event: str, about: dict[str, Any], **more: Any) -> None:
        self._events.append({"event": event, **about, **more})


def _now() -> float:
    """Seconds on the clock of the event loop, which a simulation sets forward."""
    return asyncio.get_running_loop().time()


def patience(terms: Terms) -> float | None:
    """Seconds of the longest wait for devices that the cluster lacks."""
    minutes = terms.resources.wait_minutes
    return None if minutes is None else minutes * 60
