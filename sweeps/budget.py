"""What a sweep may cost, and what it has cost so far. Pure bookkeeping: the graph asks before it starts anything."""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluators.judge.cost import total
from sweeps.config import BudgetConfig, SweepConfig

CHARGED = ("stage_finished", "stage_failed", "stage_stopped", "rung_finished", "rung_failed", "rung_stopped")
HOUR_S = 3600.0


@dataclass(frozen=True)
class Spent:
    """Device-seconds, and money: that of the devices and that of a judge."""

    device_seconds: float = 0.0
    usd: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.device_seconds + other.device_seconds, self.usd + other.usd)


def spent(events: Iterable[Mapping[str, Any]]) -> Spent:
    """What the events of a ledger have cost."""
    return sum((of(event) for event in events), Spent())


def of(event: Mapping[str, Any]) -> Spent:
    """The cost of one event; `price` stands in it per device-hour, `cost.usd` is what a judge was paid."""
    if event["event"] not in CHARGED:
        return Spent()
    seconds = event["device_seconds"]
    judge = float((event.get("cost") or {}).get("usd") or 0.0)
    return Spent(seconds, seconds / HOUR_S * event.get("price", 0.0) + judge)


def uncounted(config: SweepConfig) -> list[str]:
    """What `budget.usd` cannot count because it has no price, with the field that would give it one."""
    if config.budget.usd is None:
        return []
    pools = [config.resources.pool("train"), config.resources.pool("evaluate")]
    devices = {p.accelerator_name for p in pools if not {p.accelerator_name, p.kind} & config.resources.price.keys()}
    judges = [(name, getattr(of, "judge", None)) for name, of in config.evaluate.benchmarks.items()]
    unpriced = [f"resources.price.{name}" for name in sorted(devices)]
    unpriced += [f"evaluate.{name}.judge.price" for name, judge in judges if judge and judge.base_url and not judge.price]
    return [f"{field} is not set, so budget.usd does not count this" for field in unpriced]


@dataclass
class Bill:
    """Device-seconds of one evaluation by one benchmark, failed attempts included, chunks that were lost on the way, and what
    judges were paid."""

    seconds: float = 0.0
    lost: int = 0
    judging: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Job:
    """Something that runs or is about to: what it was planned to cost, and what it costs by the second or by bills.

    An evaluation takes devices as it needs them, so `devices` is 0 there and its parts write bills.
    """

    devices: float
    price: float
    planned: float | None
    started: float
    bills: Sequence[Bill] = ()

    def cost(self, seconds: float) -> Spent:
        """What it costs to hold the devices for some device-seconds."""
        return Spent(seconds, seconds / HOUR_S * self.price)

    def so_far(self, now: float) -> Spent:
        held = self.devices * (now - self.started) + sum(bill.seconds for bill in self.bills)
        judge = self.judging()
        return self.cost(held) + Spent(usd=float((judge or {}).get("usd") or 0.0))

    def judging(self) -> dict[str, Any] | None:
        """What judges were paid, None where none was asked."""
        costs = [cost for bill in self.bills for cost in bill.judging]
        return total(costs) if costs else None

    def in_the_end(self, now: float) -> Spent:
        """What it will have cost, as far as that is known."""
        return self.cost(max(self.planned or 0.0, self.so_far(now).device_seconds))


@dataclass
class Budget:
    """Limits, what was spent, and what runs. A limit that is None does not exist."""

    limits: BudgetConfig
    spent: Spent = Spent()
    running: dict[str, Job] = field(default_factory=dict)

    def refuses(self, job: Job, now: float) -> str | None:
        """Why a job may not start; None where it may. A job of unknown cost may start while anything is left."""
        committed = sum((other.in_the_end(now) for other in self.running.values()), self.spent)
        wanted = job.cost(job.planned) if job.planned is not None else Spent()
        return self._beyond(committed, wanted)

    def reached(self, now: float) -> str | None:
        """Which limit the sweep has reached, with what runs now; None where it is below all."""
        return self._beyond(sum((job.so_far(now) for job in self.running.values()), self.spent), Spent())

    def _beyond(self, committed: Spent, wanted: Spent) -> str | None:
        for name, limit, used, more in (
            ("device_hours", self.limits.device_hours, committed.device_seconds / HOUR_S, wanted.device_seconds / HOUR_S),
            ("usd", self.limits.usd, committed.usd, wanted.usd),
        ):
            if limit is not None and (used >= limit or used + more > limit):
                needs = f", and the next stage needs about {more:.3g}" if more else ""
                return f"budget.{name} = {limit:g}: {used:.3g} are spent or promised{needs}"
        return None


class Rates:
    """Device-seconds per token by base model, kind of device and length of the rows, as measured or else as written."""

    def __init__(self, records: Iterable[Mapping[str, Any]], written: float | None = None) -> None:
        self._written = written
        self._seen: dict[tuple[str, str, int], list[float]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: Mapping[str, Any]) -> None:
        """Take in the record of a trained stage."""
        if record.get("tokens") and record.get("device_seconds"):
            key = (str(record.get("base")), str(record.get("pool")), int(record.get("max_length") or 0))
            insort(self._seen.setdefault(key, []), record["device_seconds"] / record["tokens"])

    def device_seconds(self, tokens: int | None, base: str, pool: str, length: int, devices: float) -> float | None:
        """What a stage of so many tokens will take; None where nothing is known."""
        if tokens is None:
            return None
        seen = self._seen.get((base, pool, length))
        if seen:
            return tokens * (seen[(len(seen) - 1) // 2] + seen[len(seen) // 2]) / 2  # the median of what is sorted
        return tokens / self._written * devices if self._written else None
