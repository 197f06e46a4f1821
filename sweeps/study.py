"""The Optuna studies of a sweep: one that proposes, in memory, and one that people open.

Both are caches. They are rebuilt from the ledger whenever a run starts, event by event, so that the rebuilt study is in the
state in which the old one was, and trial numbers, Optuna's numbers and the ledger's agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sweeps import samplers, space
from sweeps.config import SearchConfig
from sweeps.scales import Params
from sweeps.shown import ShownStudy, quiet

if TYPE_CHECKING:
    from optuna.trial import Trial

OBJECTIVES = ("specialist", "general")
DEFAULT_TRIALS = 24


@dataclass(frozen=True)
class Told:
    """How a trial ended. `objectives` only where it is complete; above 0, a constraint is violated."""

    state: Literal["complete", "pruned", "failed"]
    objectives: Sequence[float] | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the study shows beside it: the error of a failed trial, the rung of a pruned one."""


def ending(outcome: Mapping[str, Any], search: SearchConfig) -> Told:
    """What a study is told of a `trial_finished` event."""
    notes = {name: outcome[name] for name in ("error", "rung") if outcome.get(name) is not None}
    if outcome["state"] != "complete":
        return Told(outcome["state"], notes=notes)
    limits = search.constraints
    values = {name: outcome[name] for name in OBJECTIVES}
    violated = {name: floor - values[name] for name in OBJECTIVES if (floor := getattr(limits, name)) is not None}
    if limits.device_seconds is not None:
        spent = outcome["device_seconds"] + outcome["saved_device_seconds"]
        violated["device_seconds"] = spent / limits.device_seconds - 1
    return Told("complete", tuple(values.values()), violated, notes)


def planned_trials(search: SearchConfig) -> int:
    """How many trials a search runs: no more than its space has points."""
    if not search.space:
        return 1
    points = space.size(search.space)
    if search.sampler == "grid" or (points is not None and points <= (search.trials or DEFAULT_TRIALS)):
        points = len(space.grid(search.space))
        return min(points, search.trials or points)
    return search.trials or DEFAULT_TRIALS


class SweepStudy:
    """Asks for the parameters of new trials and is told how they ended."""

    def __init__(self, search: SearchConfig, start: Sequence[Params], shown: ShownStudy | None = None) -> None:
        optuna = quiet()
        self._search = search
        self._first = space.grid(search.space) if search.sampler == "grid" else space.start_points(search.space, start)
        self._shown = shown
        self._storage = optuna.storages.InMemoryStorage()
        # Its own sampler draws nothing: what a trial gets is decided here, and may be drawn more than once.
        idle = optuna.samplers.RandomSampler(seed=0)
        self._study = optuna.create_study(directions=["maximize"] * len(OBJECTIVES), sampler=idle, storage=self._storage)
        self._id = self._storage.get_study_id_from_name(self._study.study_name)
        self._running: dict[int, Trial] = {}
        self._finished = 0
        self._tried: set[tuple[tuple[str, Any], ...]] = set()

    def ask(self) -> tuple[int, Params]:
        """The number and parameters of the next trial."""
        trial = self._study.ask()
        params = self._first[trial.number] if trial.number < len(self._first) else self._propose(trial)
        return self._start(trial, params), params

    def put(self, params: Params) -> int:
        """Add a running trial with known parameters, one that the ledger holds; its number."""
        trial = self._study.ask()
        if trial.number >= len(self._first) and samplers.leaves_notes(self._search, self._finished, trial.number):
            self._propose(trial)
        return self._start(trial, params)

    def tell(self, number: int, told: Told) -> None:
        """How a trial ended."""
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        self._finished += told.state != "failed"
        for name, value in told.constraints.items():
            trial.set_constraint(name, value)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[told.state]
        self._study.tell(trial, list(told.objectives) if told.objectives else None, state)
        if self._shown:
            self._shown.tell(number, told.objectives, state, told.constraints, told.notes)

    def _start(self, trial: "Trial", params: Params) -> int:
        values, distributions = space.position(self._search.space, params)
        at = self._trial_id(trial)
        for name, distribution in distributions.items():
            self._storage.set_trial_param(at, name, distribution.to_internal_repr(values[name]), distribution)
        if not samplers.leaves_notes(self._search, self._finished, trial.number):
            for note in self._storage.get_trial(at).system_attrs:  # of what was drawn, which need not be what was chosen
                self._storage.set_trial_system_attr(at, note, "")
        self._running[trial.number] = trial
        self._tried.add(tuple(sorted(params.items())))
        if self._shown:
            self._shown.put(trial.number, params, space.shown(self._search.space, params))
        return int(trial.number)

    def _propose(self, trial: "Trial") -> Params:
        """The first proposal that has not been tried; where there is none, the last one, which costs nothing again."""
        frozen = self._storage.get_trial(self._trial_id(trial))
        for params in samplers.proposals(self._search, self._finished, self._study, frozen):
            if tuple(sorted(params.items())) not in self._tried:
                return params
        return self._left() or params

    def _trial_id(self, trial: "Trial") -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number))

    def _left(self) -> Params | None:
        """A point of a finite space that no sampler hit."""
        if space.size(self._search.space) is None:
            return None
        return next((p for p in space.grid(self._search.space) if tuple(sorted(p.items())) not in self._tried), None)
