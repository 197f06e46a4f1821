"""Which trials go on at a rung: successive halving for several objectives, without waiting for each other.

A trial that reaches a rung goes on if it is among the best `keep` of all that have reached it so far, or the best `least`:
against two or three others a noisy score says little, and the best trial may well be one of the first. Trials are ranked by
non-dominated sorting, and within a front by the room that they have to themselves (the crowding distance of NSGA-II), so that
the ends and the gaps of a front survive. Scores of one rung are of the same fraction of training and the same share of each
benchmark's items, so they are paired; those of different rungs are never compared.

The rule is a pure function of what reached the rung before. The ledger holds what was decided, in order, so that a continued
run decides as an uninterrupted one would have.
"""

from collections.abc import Iterable, Sequence
from math import ceil, inf

import numpy as np

from sweeps.balance import Objectives, front
from sweeps.config import PrunerConfig
from sweeps.ledger import Event

EVENT = "trial_at_rung"


class Pruner:
    """Remembers what reached each rung: objectives as (specialist, general)."""

    def __init__(self, config: PrunerConfig, events: Iterable[Event] = ()) -> None:
        self._keep, self._least = config.keep, config.least
        self.rungs = config.rungs[:-1]
        self._reached: dict[float, list[tuple[float, float]]] = {rung: [] for rung in self.rungs}
        self._decided: dict[tuple[int, float], bool] = {}
        for event in events:
            if event["event"] == EVENT:
                self._reached[event["rung"]].append((event["specialist"], event["general"]))
                self._decided[event["trial"], event["rung"]] = event["goes_on"]

    def decided(self, trial: int, rung: float) -> bool | None:
        """Whether a trial went on, None where it has not reached the rung."""
        return self._decided.get((trial, rung))

    def goes_on(self, trial: int, rung: float, objectives: tuple[float, float]) -> bool:
        """Decide for a trial that reaches a rung."""
        self._reached[rung].append(objectives)
        self._decided[trial, rung] = survives(np.array(self._reached[rung]), self._keep, self._least)
        return self._decided[trial, rung]


def survives(table: Objectives, keep: float, least: int = 1) -> bool:
    """Whether the last of the points, shape (points, 2), is among the best `keep` of them, rounded up, or the best `least`."""
    return ranked(table).index(len(table) - 1) < max(least, ceil(keep * len(table) - 1e-9))


def ranked(table: Objectives) -> list[int]:
    """Positions of the points, the best first: front by front, in a front the loneliest first, of equals the earliest."""
    left, order = np.arange(len(table)), list[int]()
    while len(left):
        best = left[front(table[left])]
        room = crowding(table[best])
        order += best[sorted(range(len(best)), key=lambda i: (-room[i], best[i]))].tolist()
        left = np.setdiff1d(left, best, assume_unique=True)
    return order


def crowding(table: Objectives) -> Sequence[float]:
    """For each point of a front the distance of its two neighbours, as shares of the range of each objective, summed; without
    end for the two ends (Deb et al., 2002)."""
    room = [0.0] * len(table)
    for values in table.T:
        order = np.argsort(values, kind="stable")
        width = float(np.ptp(values)) or 1.0
        room[order[0]] = room[order[-1]] = inf
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            room[i] += float(values[after] - values[before]) / width
    return room
