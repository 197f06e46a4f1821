"""The driver's pen: what the graph and the trials tell goes into the ledger, the study and the trial folders."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data.files import Folder
from data.store import Record, Store
from evaluators.entries import EVALUATIONS
from sweeps import budget, judging, shown, starts
from sweeps.accounts import Accounts
from sweeps.beside import Measurement
from sweeps.budget import Spent
from sweeps.config import SweepConfig
from sweeps.ledger import Event, Ledger, read, told
from sweeps.lineage import merged, run_folder, store_root
from sweeps.progress import Progress
from sweeps.pruner import EVENT as AT_RUNG
from sweeps.pruner import Pruner
from sweeps.scales import Params
from sweeps.study import OBJECTIVES, SweepStudy, ending, planned_trials
from trainers.job import kind_of


class Results(Protocol):
    """Where the results of stages and evaluations lie: the store, or the ledger of a simulation."""

    def record(self, kind: str, key: str) -> Record | None: ...
    def fetch(self, kind: str, key: str) -> Path: ...
    def damage(self) -> Iterable[Mapping[str, Any]]: ...


class Recorder:
    """Owns the ledger of a run and the study that is rebuilt from it. Lives in the driver's main thread."""

    def __init__(
        self, config: SweepConfig, ledger: Ledger, progress: Progress, last_seen: float = 0.0, store: Results | None = None
    ) -> None:
        """`last_seen` is when the process that held this run before was last alive, where it did not end by itself."""
        self._config = config
        self._ledger = ledger
        self._progress = progress
        train, evaluate = config.resources.pool("train"), config.resources.pool("evaluate")
        self._devices = {"stage": train.devices, "rung": evaluate.gpus_per_worker or evaluate.cpus_per_worker}
        self._folder = run_folder(config)
        self._store: Results = store or Store(store_root(config))
        self.events: list[Event] = read(ledger.folder)
        self._asked = {e["trial"]: e["params"] for e in self.events if e["event"] == "trial_started"}
        self._scratch = tempfile.TemporaryDirectory(prefix="fulcrum-study-")
        self._database = (self._folder.path() if self._folder.local else Path(self._scratch.name)) / "study.db"
        started = next((e for e in self.events if e["event"] == "run_started"), {})
        # As they were when the run began: the files that they came from may have changed.
        self.start: list[Params] = started["start"] if "start" in started else starts.points(config.search)
        storage = shown.of(config.search, self._database)
        shown_study = shown.ShownStudy(storage, config.name, str(self._folder), OBJECTIVES)
        self.study = SweepStudy(config.search, self.start, shown_study)
        self.spent: Spent = budget.spent(self.events)
        self._accounts = Accounts(self.events)
        self._measured = next((e for e in self.events if _completed(e)), None)
        self._planned = planned_trials(config.search)
        self.stopped: str | None = None
        self.pruner = Pruner(config.search.pruner, self.events) if config.search.pruner else None
        self.unfinished = self._replay()
        self.save_study()
        self.reconcile(last_seen or max((event["time"] for event in self.events), default=0.0))

    @property
    def open(self) -> int:
        """Number of trials that are still to be asked."""
        return max(0, self._planned - len(self._asked))

    @property
    def left(self) -> int:
        """Number of trials that have no end, asked or not."""
        ended = {event["trial"] for event in self.events if event["event"] == "trial_finished"}
        return self._planned - len(ended)

    def note(self, event: str, **values: Any) -> None:
        """Append an event and show it."""
        self.events.append(self._ledger.append(event, **values))
        self.spent += budget.of(self.events[-1])
        self._accounts.take(self.events[-1])
        self._progress.event(self.events[-1])

    def end(self, chosen: int | None) -> None:
        """Note the end of the run with the trial that was chosen, or why it was stopped before its end."""
        if self.stopped:
            self.note("run_stopped", reason=self.stopped, open=self.left)
        else:
            self.note("run_finished", trial=chosen)

    def ask(self) -> tuple[int, Params] | None:
        """The next new trial, None when all are asked."""
        if not self.open:
            return None
        number, params = self.study.ask()
        self._asked[number] = params
        self.note("trial_started", trial=number, params=params)
        return number, params

    def finish(self, number: int, outcome: dict[str, Any]) -> None:
        """Write a trial's end: its folder first, then the ledger, then the study. One that was stopped is left open."""
        if outcome["state"] == "stopped":
            self.stopped = outcome["error"]
            self.note("trial_stopped", trial=number, reason=self.stopped)
            return
        params = self._asked[number]
        outcome = self._beside_the_others(outcome)
        folder = self._folder / f"trials/{number:04d}"
        self._write_trial(folder, params, outcome)
        self._note_reused(number, outcome)
        cost = self._accounts.cost(number, outcome.get("stages", ()))
        paid = self._accounts.judges(number)
        end = {"error": None, "scores": {}} | outcome | cost | ({"cost": paid} if paid else {})
        self.note("trial_finished", trial=number, params=params, **end)
        if self._measured is None and _completed(self.events[-1]):
            self._measured = self.events[-1]
        self.study.tell(number, ending(end, self._config.search))
        self.save_study()
        self.note_damage()

    def at_rung(self, number: int, rung: float, objectives: tuple[float, float]) -> bool:
        """Whether a trial that has reached a rung goes on. What was decided before is not decided again."""
        assert self.pruner is not None
        goes_on = self.pruner.decided(number, rung)
        if goes_on is None:
            goes_on = self.pruner.goes_on(number, rung, objectives)
            specialist, general = objectives
            self.note(AT_RUNG, trial=number, rung=rung, specialist=specialist, general=general, goes_on=goes_on)
        return goes_on

    def measured(self, measurement: Measurement, outcome: dict[str, Any]) -> None:
        """Write down what was measured beside the search. What was stopped stays due."""
        if outcome["state"] == "stopped":
            self.stopped = outcome["error"]
            return
        about = measurement.about | {"seeds": len(measurement.paths), "measured": measurement.evaluations}
        self.note(measurement.event, **about, **{"error": None, "scores": {}} | outcome)

    def save_study(self) -> None:
        """Copy the study to the run's folder, where that is not on this machine."""
        if not self._folder.local and not self._config.search.storage_env:
            self._folder.put(self._database, "study.db")

    def _replay(self) -> list[tuple[int, Params]]:
        """Put the ledger's trials into the study, in the order of the events; the unfinished ones are returned."""
        unfinished: dict[int, Params] = {}
        for event in self.events:
            if event["event"] == "trial_started":
                unfinished[event["trial"]] = event["params"]
                if self.study.put(event["params"]) != event["trial"]:
                    raise RuntimeError(f"the ledger lacks a trial before number {event['trial']}")
            elif event["event"] == "trial_finished" and unfinished.pop(event["trial"], None) is not None:
                self.study.tell(event["trial"], ending(event, self._config.search))
        return sorted(unfinished.items())

    def reconcile(self, until: float) -> None:
        """Write down the ends of what a driver or a graph that died at `until` had started: it could not tell any more.

        What the store holds was finished; of the rest the time that it held its devices is charged.
        """
        for event in _open(self.events):
            what = event["event"].removesuffix("_started")
            about = {name: value for name, value in event.items() if name not in ("event", "time")}
            trained, key = what == "stage", event["key"]
            record = self._store.record(kind_of(key), key) if trained else self._scores(event["evaluations"])
            if record:
                before = self._accounts.charged(key) if trained else 0.0  # the record counts from the stage's beginning
                seconds = max(0.0, record["device_seconds"] - before)
                self.note(f"{what}_finished", **about, **told(record) | {"device_seconds": seconds})
            else:
                spent = self._devices[what] * max(0.0, until - event["time"])
                self.note(f"{what}_stopped", **about, device_seconds=spent, step=None, reason="cut off with the run")

    def note_damage(self) -> None:
        """Say what was set aside in the store since this run began."""
        found = list(self._store.damage())
        said = {(e["kind"], e["key"], e["attempt"]) for e in self.events if e["event"] == "entry_set_aside"} if found else set()
        for entry in found:
            about = {name: entry[name] for name in ("kind", "key", "attempt", "reason")}
            if entry["time"] > self.events[0]["time"] and (entry["kind"], entry["key"], entry["attempt"]) not in said:
                self.note("entry_set_aside", **about)

    def _scores(self, evaluations: dict[str, str]) -> Record | None:
        """The scores of a checkpoint, None until every benchmark's are in the store."""
        records = [self._store.record(EVALUATIONS, key) for key in evaluations.values()]
        found = [record for record in records if record is not None]
        return merged(found) if len(found) == len(evaluations) else None

    def _beside_the_others(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """An outcome, a failure where it was measured differently. All that were kept agree with the first."""
        if self._measured is None or outcome["state"] != "complete":
            return outcome
        refused = judging.refusal(self._measured, outcome)
        kept = {name: outcome[name] for name in ("stages", "evaluations") if name in outcome}
        return {"state": "failed", "error": refused} | kept if refused else outcome

    def _note_reused(self, number: int, outcome: dict[str, Any]) -> None:
        for key in outcome.get("stages", ()):
            if self._accounts.payer(key) != number:
                record = self._store.record(kind_of(key), key) or {}
                self.note("stage_reused", key=key, trial=number, device_seconds=record.get("device_seconds", 0.0))

    def _write_trial(self, folder: Folder, params: Params, outcome: dict[str, Any]) -> None:
        folder.write("params.json", json.dumps(params, indent=2).encode())
        folder.write("log", json.dumps(outcome, indent=2, ensure_ascii=False).encode())
        self._put_items(folder, outcome.get("evaluations", {}))
        for number, evaluations in enumerate(outcome.get("repeats", ()), 1):
            self._put_items(folder / f"repeat-{number}", evaluations)

    def _put_items(self, folder: Folder, evaluations: Mapping[str, str]) -> None:
        """Prompts, answers and verdicts, a file for each benchmark."""
        for key in evaluations.values():
            for file in self._store.fetch(EVALUATIONS, key).glob("*.jsonl"):
                folder.put(file, file.name)


def _completed(event: Event) -> bool:
    return event["event"] == "trial_finished" and event["state"] == "complete"


def _open(events: Sequence[Event]) -> list[Event]:
    """The last starts of stages and evaluations that have no end."""
    started: dict[tuple[str, str], Event] = {}
    for event in events:
        what, _, how = event["event"].partition("_")
        if what in ("stage", "rung") and how == "started":
            started[what, event["key"]] = event
        elif what in ("stage", "rung") and how in ("finished", "failed", "stopped", "elsewhere"):
            started.pop((what, event["key"]), None)
    return list(started.values())
