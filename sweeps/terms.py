"""What the stage graph, its trials and the driver say to each other: plain values that travel between processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.store import Record
from sweeps.config import BudgetConfig
from trainers.config import ResourcesConfig

GRACE_S = 120.0
"""After being asked to stop a stage is cancelled, and as long after that it is killed."""


@dataclass(frozen=True)
class Known:
    """What the store already holds of a lineage, by key, and the tokens of the stages that it does not hold."""

    records: Mapping[str, Record]
    tokens: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """On which terms a sweep trains: its name, its machines, its limits, and the stages from which costs are planned."""

    owner: str
    resources: ResourcesConfig
    budget: BudgetConfig
    measured: Sequence[Record] = ()
    grace_s: float = GRACE_S


@dataclass(frozen=True)
class News:
    """What the driver asks for now and then. Events are those after the ones that it has seen of the same life."""

    life: str
    events: list[dict[str, Any]]
    progress: dict[str, dict[str, Any]]
    waiting: dict[str, str]
    can_train: int
    judging: int


class Stopped(RuntimeError):
    """A stage was not begun, or was stopped, through no fault of its own; the run can be continued."""


class Abandoned(Stopped):
    """A stage was stopped because no trial needed it any more. Who needs it after all has it made again."""
