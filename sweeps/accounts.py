"""What each trial was charged and what each stage cost, kept up event by event."""

from collections.abc import Iterable
from typing import Any

from evaluators.judge.cost import total
from sweeps.budget import CHARGED
from sweeps.ledger import Event


class Accounts:
    """Each attempt at a stage or evaluation is charged to the trial that asked first."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._spent: dict[int | None, float] = {}
        self._stages: dict[str, tuple[int | None, float]] = {}
        self._charged: dict[str, float] = {}
        self._parts: dict[str, float] = {}
        """Device-seconds of a stage up to the last rung that it has reached, which were charged part by part."""
        self._judges: dict[int | None, list[dict[str, Any]]] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Enter an event of the ledger."""
        if event["event"] in CHARGED:
            self._spent[event["trial"]] = self._spent.get(event["trial"], 0.0) + event["device_seconds"]
            if event["event"].startswith("stage"):
                stage = event["key"].partition("@")[0]
                self._charged[stage] = self._charged.get(stage, 0.0) + event["device_seconds"]
            if event.get("cost"):
                self._judges.setdefault(event["trial"], []).append(event["cost"])
        if event["event"] == "stage_finished":
            stage = event["key"].partition("@")[0]
            self._parts[stage] = self._parts.get(stage, 0.0) + event["device_seconds"]
            self._stages[event["key"]] = (event["trial"], self._parts[stage])
        elif event["event"] == "stage_reused":
            self._stages.setdefault(event["key"], (None, event["device_seconds"]))

    def payer(self, stage: str) -> int | None:
        """The trial that was charged for a stage; None where it came from the store."""
        return self._stages.get(stage, (None, 0.0))[0]

    def charged(self, stage: str) -> float:
        """Device-seconds that this run was charged for a stage, attempts that failed and all its rungs included."""
        return self._charged.get(stage.partition("@")[0], 0.0)

    def judges(self, trial: int | None) -> dict[str, Any] | None:
        """What judges were paid for a trial, failed evaluations included; None where nobody was asked."""
        return total(self._judges[trial]) if trial in self._judges else None

    def cost(self, trial: int | None, stages: Iterable[str]) -> dict[str, Any]:
        """Device-seconds that a trial was charged, and those that it did not have to spend for its stages."""
        others = (self._stages[key][1] for key in stages if key in self._stages and self.payer(key) != trial)
        return {"device_seconds": self._spent.get(trial, 0.0), "saved_device_seconds": sum(others, 0.0)}
