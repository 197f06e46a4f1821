"""What Ray Tune asks for trials: the sweep's study behind Tune's Searcher interface.

Tune's own state of it is never written: a run is continued from the ledger.
"""

import json
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from sweeps.scales import Params

Finish = Callable[[int, dict[str, Any]], None]


class StudySearcher(Searcher):
    """Gives Tune a trial whenever there is room for one more, until `ask` has none."""

    def __init__(self, ask: Callable[[], tuple[int, Params] | None], finish: Finish, room: Callable[[], int]) -> None:
        super().__init__(metric=None, mode=None)
        self._ask = ask
        self._finish = finish
        self._room = room
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        if len(self._numbers) >= self._room():
            return None  # asked again by and by: the cluster may have grown, or a trial ended
        asked = self._ask()
        if asked is None:
            return Searcher.FINISHED
        self._numbers[trial_id], params = asked
        return {"trial": asked[0], "params": params}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        told = json.loads((result or {}).get("outcome", "{}"))
        died = {"state": "failed", "error": "the process of the trial died"}
        outcome = told if told and not error else died
        if outcome["state"] == "rung":  # the last that it reported: it did not go on
            outcome = {name: told[name] for name in ("rung", "stages", "evaluations")} | {"state": "pruned"}
        self._finish(self._numbers.pop(trial_id), outcome)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher and never reads this one back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see above."""
