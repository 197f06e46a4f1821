"""What Ray Tune asks for trials: the sweep's study behind Tune's Searcher interface.

Tune's own state of it is never written: a run is continued from the ledger.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from sweeps.scales import Params

PROCESSES = 3
"""Processes that a trial may lose before it has failed."""

Finish = Callable[[int, dict[str, Any]], None]


class StudySearcher(Searcher):
    """Gives Tune a trial whenever there is room for one more, until `ask` has none.

    A trial whose process died is given again, under another of Tune's names: it keeps nothing, so it may begin anywhere.
    """

    def __init__(self, ask: Callable[[], tuple[int, Params] | None], finish: Finish, room: Callable[[], int]) -> None:
        super().__init__(metric=None, mode=None)
        self._ask = ask
        self._finish = finish
        self._room = room
        self._running: dict[str, tuple[int, Params]] = {}
        self._died: list[tuple[int, Params]] = []
        self._deaths: Counter[int] = Counter()

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= self._room():
            return None  # asked again by and by: the cluster may have grown, or a trial ended
        asked = self._died.pop() if self._died else self._ask()
        if asked is None:
            return None if self._running else Searcher.FINISHED  # one that runs may die
        self._running[trial_id] = asked
        return dict(zip(("trial", "params"), asked, strict=True))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._running:  # Tune tells of some deaths twice
            return
        number, params = self._running.pop(trial_id)
        told = json.loads((result or {}).get("outcome", "{}"))
        if error or not told:
            self._deaths[number] += 1
            if self._deaths[number] < PROCESSES:
                self._died.append((number, params))
                return
        outcome = told if told and not error else {"state": "failed", "error": "the process of the trial died"}
        if outcome["state"] == "rung":  # the last that it reported: it did not go on
            outcome = {name: told[name] for name in ("rung", "stages", "evaluations")} | {"state": "pruned"}
        self._finish(number, outcome)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher and never reads this one back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see above."""
