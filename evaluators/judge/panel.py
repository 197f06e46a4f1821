"""Judgments of many answers: asked for together, read, repeated where that was asked for, and counted.

Every judgment that can be had is had and kept before a missing one fails the evaluation: a retry pays for the rest only.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from statistics import median

from data.store import Record, Store
from evaluators.benchmark import EvaluationFailed
from evaluators.judge import open as judges
from evaluators.judge import ratings
from evaluators.judge.cache import Judgments
from evaluators.judge.config import JudgeConfig
from evaluators.judge.cost import Cost
from evaluators.judge.reply import CallFailed, Judge, JudgeUnusable, Messages

Got = tuple[Record, bool] | CallFailed
"""A judgment and whether it was there already, or why there is none."""
ASKED = 2  # times, where a reply holds no rating


@dataclass(frozen=True)
class Rating:
    """The median of the replicates' ratings; None only under FastChat's rules, for replies without any."""

    value: float | None
    replicates: tuple[float | None, ...]
    replies: tuple[str, ...]
    model: str
    cost: Cost


class Panel:
    """Rates prompts with one judge. `opened` makes the judge anew for each call of `rate`."""

    def __init__(self, config: JudgeConfig, store: Store | None, opened: Callable[[], Judge] | None = None) -> None:
        self._config = config
        self._name = judges.model(config)
        self._judgments = Judgments(store)
        self._opened = opened or judges.opened(config)
        self._spent = Cost()

    def rate(self, prompts: Sequence[Messages]) -> list[Rating]:
        """One rating per prompt, in order. Raises EvaluationFailed, with the cost so far, where one is missing."""
        self._spent = Cost()
        each = self._config.replicates
        try:
            got = asyncio.run(self._all([(prompt, replicate) for prompt in prompts for replicate in range(each)]))
            _refuse_mixed({record["model"] for record, _ in got})
        except EvaluationFailed as error:
            error.cost = self._spent.plain(self._config.price)
            raise
        return [_rating(got[i : i + each]) for i in range(0, len(got), each)]

    async def _all(self, asked: Sequence[tuple[Messages, int]]) -> list[tuple[Record, bool]]:
        slots = asyncio.Semaphore(self._config.concurrency)
        async with self._opened() as judge:
            tasks = [asyncio.ensure_future(self._one(judge, slots, *question)) for question in asked]
            # A call that failed is a result; an exception says that asking on is pointless.
            await asyncio.wait(tasks, timeout=self._config.deadline, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._complete(tasks)

    async def _one(self, judge: Judge, slots: asyncio.Semaphore, messages: Messages, replicate: int) -> Got:
        async def make() -> Record:
            async with slots:
                return await self._asked(judge, messages, replicate)

        try:
            got = await self._judgments.once(judges.judgment(self._name, self._config, messages, replicate), make)
        except CallFailed as failed:
            return failed
        self._spent += Cost(cached=int(got[1]))
        return got

    async def _asked(self, judge: Judge, messages: Messages, replicate: int) -> Record:
        """A judgment from the judge. A reply without a rating is asked for again once, but not under FastChat's rules."""
        compat, paid = self._config.fastchat_compat, Cost()
        for _ in range(ASKED):
            reply = await judge.complete(messages, replicate)
            call = Cost(1, 0, reply.prompt_tokens, reply.completion_tokens)
            self._spent, paid = self._spent + call, paid + call
            value = ratings.fastchat_rating(reply.text) if compat else ratings.rating(reply.text)
            if value is not None or compat:
                return asdict(reply) | asdict(paid) | {"rating": value}
        raise CallFailed(f"no rating from 1 to 10 in double brackets, {ASKED} times; the last reply ends {reply.text[-80:]!r}")

    def _complete(self, tasks: Sequence["asyncio.Task[Got]"]) -> list[tuple[Record, bool]]:
        """All judgments, or the reason why some are missing."""
        stopped = [error for task in tasks if not task.cancelled() and (error := task.exception())]
        foreign = [error for error in stopped if not isinstance(error, JudgeUnusable)]
        if foreign:
            raise foreign[0]
        ended = [task.result() for task in tasks if not task.cancelled() and not task.exception()]
        got = [one for one in ended if not isinstance(one, CallFailed)]
        if len(got) == len(tasks):
            return got
        failed = [*stopped, *(one for one in ended if isinstance(one, CallFailed))]
        why = str(failed[0]) if failed else f"not there within judge.deadline = {self._config.deadline:g} s"
        lost = len(tasks) - len(got)
        raise EvaluationFailed(f"{lost} of {len(tasks)} judgments are missing: {why}; the others are kept for a retry")


def _refuse_mixed(models: set[str]) -> None:
    if len(models) > 1:
        told = " and as ".join(sorted(models))
        raise EvaluationFailed(f"the judge answered as {told}; name one of them in judge.model and start another run")


def _rating(got: Sequence[tuple[Record, bool]]) -> Rating:
    records = [record for record, _ in got]
    values = tuple(record["rating"] for record in records)
    rated = [value for value in values if value is not None]
    costs = (Cost(cached=1) if cached else Cost(**{name: r[name] for name in asdict(Cost())}) for r, cached in got)
    texts = tuple(record["text"] for record in records)
    return Rating(median(rated) if rated else None, values, texts, records[0]["model"], reduce(add, costs))
