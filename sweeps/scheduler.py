"""The pruner behind Tune's scheduler interface: at each rung a trial goes on or ends.

Tune's own state of it is never written: what was decided stands in the ledger.
"""

import json
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

GoesOn = Callable[[int, float, tuple[float, float]], bool]
"""Asked with the number of a trial, the rung that it has reached, and its objectives there (specialist, general)."""


class RungScheduler(FIFOScheduler):
    """Runs trials as they come, and ends those that do not go on at a rung."""

    def __init__(self, goes_on: GoesOn) -> None:
        super().__init__()
        self._goes_on = goes_on

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        told = json.loads(result["outcome"])
        if told["state"] != "rung":
            return str(self.CONTINUE)
        goes_on = self._goes_on(trial.config["trial"], told["rung"], (told["specialist"], told["general"]))
        return str(self.CONTINUE if goes_on else self.STOP)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler and never reads this one back
