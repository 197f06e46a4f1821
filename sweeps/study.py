"""The Optuna studies of a sweep: one that proposes, in memory, and one that people open, in SQLite.

Both are caches. They are rebuilt from the ledger's trials whenever a run starts, in the order of asking, so that trial
numbers, Optuna's numbers and the ledger's agree.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import space
from sweeps.config import SearchConfig
from sweeps.space import Params

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

OBJECTIVES = ("specialist", "general")
DEFAULT_TRIALS = 24


def planned_trials(search: SearchConfig) -> int:
    """How many trials a search runs."""
    if not search.space:
        return 1
    if search.sampler == "grid":
        points = len(space.grid(search.space))
        return min(points, search.trials or points)
    return search.trials or DEFAULT_TRIALS


class SweepStudy:
    """Asks for the parameters of new trials and is told their two objectives."""

    def __init__(self, search: SearchConfig, database: Path, name: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._search = search
        self._first = space.grid(search.space) if search.sampler == "grid" else space.start_points(search.space)
        database.unlink(missing_ok=True)
        directions = ["maximize"] * len(OBJECTIVES)
        self._proposing = optuna.create_study(directions=directions)
        self._shown = optuna.create_study(directions=directions, study_name=name, storage=f"sqlite:///{database}")
        self._shown.set_metric_names(list(OBJECTIVES))
        self._asked: dict[int, tuple[Any, Any]] = {}

    def ask(self) -> tuple[int, Params]:
        """The number and parameters of the next trial."""
        number = len(self._proposing.trials)
        params = self._first[number] if number < len(self._first) else self._propose(number)
        return self.put(params), params

    def put(self, params: Params) -> int:
        """Add a running trial with known parameters, one that the ledger holds; its number."""
        parameters = self._search.space
        drawn = {name: space.to_search(parameters[name], value) for name, value in params.items()}
        self._proposing.enqueue_trial(drawn)
        asked = self._proposing.ask({name: space.searched(parameters[name]) for name in params})
        self._shown.enqueue_trial(params)
        shown = self._shown.ask({name: space.shown(parameters[name]) for name in params})
        self._asked[asked.number] = (asked, shown)
        return int(asked.number)

    def tell(self, number: int, objectives: Sequence[float] | None, error: str | None = None) -> None:
        """The objectives of a finished trial, or None for a failed one with the reason."""
        from optuna.trial import TrialState

        proposed, shown = self._asked.pop(number)
        if error:
            shown.set_user_attr("error", error[:2000])
        for study, trial in ((self._proposing, proposed), (self._shown, shown)):
            if objectives is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, list(objectives))

    def _propose(self, number: int) -> Params:
        # A sampler of its own for every proposal: what it draws depends on the finished trials and on nothing else.
        self._proposing.sampler = _sampler(self._search, number)
        drawn = _peek(self._proposing, {name: space.searched(p) for name, p in self._search.space.items()})
        return {name: space.from_search(self._search.space[name], value) for name, value in drawn.items()}


def _peek(study: Any, distributions: dict[str, Any]) -> Params:
    """What the sampler would draw next, without a trial left behind in the study."""
    import optuna

    scratch = optuna.create_study(directions=study.directions, sampler=study.sampler)
    scratch.add_trials(study.get_trials(deepcopy=False))
    return dict(scratch.ask(distributions).params)


def _sampler(search: SearchConfig, number: int) -> "BaseSampler":
    import optuna

    seed = int.from_bytes(hashlib.sha256(f"{search.seed}/{number}".encode()).digest()[:4], "big")
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)
