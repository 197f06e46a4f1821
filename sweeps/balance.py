"""The front of a sweep and the balance point on it, with how sure the choice is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeps.config import Balance, Floor, Weights

DRAWS = 2000
Objectives = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A finished trial: its objectives on 0 to 1 and their standard errors, both as (specialist, general)."""

    trial: int
    params: Mapping[str, Any]
    scores: Mapping[str, float]
    objectives: tuple[float, float]
    stderr: tuple[float, float]


@dataclass(frozen=True)
class BalancePoint:
    """The chosen trial. `confidence` is the share of redrawn score tables in which it is chosen again; `interval` holds,
    for each numeric parameter, the values between which 90 % of the choices fall; `alike` are the trials that cannot be told
    apart from it; `anchors` and `confirmation` are what was measured beside the search (sweeps/confirmation.py)."""

    trial: int
    params: Mapping[str, Any]
    scores: Mapping[str, float]
    rule: str
    reason: str
    confidence: float
    interval: Mapping[str, tuple[float, float]]
    alike: tuple[int, ...] = ()
    anchors: Sequence[Mapping[str, Any]] = ()
    confirmation: Mapping[str, Any] | None = None


def front(objectives: Objectives) -> list[int]:
    """Positions of the points that no other point dominates, shape of the input (points, 2), larger is better."""
    order = np.lexsort((-objectives[:, 1], -objectives[:, 0]))  # the best first, of equals the best in the second
    first, second = objectives[order].T
    begins = np.flatnonzero(np.r_[True, first[1:] != first[:-1]])
    begin = np.repeat(begins, np.diff(np.r_[begins, len(order)]))  # where the points as good in the first begin
    before = np.r_[-np.inf, np.maximum.accumulate(second)][begin]
    return sorted(order[(second == second[begin]) & (second > before)].tolist())


def choose(points: Sequence[Point], rule: Balance, seed: int = 0) -> BalancePoint:
    """The balance point by a rule. Raises ValueError where no point can satisfy it."""
    if not points:
        raise ValueError("no trial was completed, so there is nothing to balance")
    table = np.array([point.objectives for point in points])
    chosen, reason = _pick(table, rule)
    again = _redrawn_choices(points, rule, seed)
    return BalancePoint(
        trial=points[chosen].trial,
        params=points[chosen].params,
        scores=points[chosen].scores,
        rule=rule.rule,
        reason=reason,
        # Trials with the same scores share the confidence: nothing tells them apart.
        confidence=float(np.mean([i == chosen for i in again])) / _alike(table, chosen) if again else 0.0,
        interval=_interval(points, again),
    )


def candidates(points: Sequence[Point], rule: Balance, count: int, seed: int = 0) -> list[Point]:
    """The balance point, then those that are chosen most often when the scores are redrawn, then the rest of the front, by the
    sum of their objectives. Empty where no point can satisfy the rule."""
    if not points:
        return []
    table = np.array([point.objectives for point in points])
    try:
        chosen, _ = _pick(table, rule)
    except ValueError:
        return []
    often = Counter(_redrawn_choices(points, rule, seed))
    rest = sorted(front(table), key=lambda i: -float(table[i].sum()))
    order = dict.fromkeys([chosen, *(i for i, _ in often.most_common()), *rest])
    return [points[i] for i in list(order)[:count]]


def plain(point: BalancePoint) -> dict[str, Any]:
    """As in `balance.json`."""
    return asdict(point)


def _pick(table: Objectives, rule: Balance) -> tuple[int, str]:
    on_front = front(table)
    match rule:
        case Floor(general=general):
            floor = general if general >= 0 else float(table[:, 1].max()) + general
            allowed = [i for i in range(len(table)) if table[i, 1] >= floor]
            if not allowed:
                raise ValueError(f"no trial keeps general at {floor:.3f} or above; lower balance.general")
            best = max(allowed, key=lambda i: (table[i, 0], table[i, 1]))
            return best, f"the best specialist score among the trials that keep general at {floor:.3f} or above"
        case Weights(specialist=s, general=g):
            best = max(on_front, key=lambda i: s * table[i, 0] + g * table[i, 1])
            return best, f"the largest {s:g} x specialist + {g:g} x general"
    return _knee(table, on_front)


def _knee(table: Objectives, on_front: list[int]) -> tuple[int, str]:
    """The point of the front farthest above the straight line between its two ends, both objectives scaled to its range."""
    if len(on_front) == 1:
        return on_front[0], "the only trial on the front: best in both objectives"
    points = table[on_front]
    scaled = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    best = max(range(len(on_front)), key=lambda i: (round(float(scaled[i].sum()), 9), float(points[i].sum())))
    return on_front[best], f"the knee of a front of {len(on_front)} trials: the farthest above the line between its ends"


def _redrawn_choices(points: Sequence[Point], rule: Balance, seed: int) -> list[int]:
    """The choices when every score is drawn again within its standard error."""
    random = np.random.default_rng(seed)
    means, errors = np.array([p.objectives for p in points]), np.array([p.stderr for p in points])
    choices = []
    for _ in range(DRAWS):
        try:
            choices.append(_pick(random.normal(means, errors), rule)[0])
        except ValueError:  # this table satisfies no floor
            continue
    return choices


def _alike(table: Objectives, chosen: int) -> int:
    return int((table == table[chosen]).all(1).sum())


def _interval(points: Sequence[Point], choices: Sequence[int]) -> dict[str, tuple[float, float]]:
    names = {name: None for p in points for name, value in p.params.items() if isinstance(value, int | float)}
    chosen = {name: [float(points[i].params[name]) for i in choices if name in points[i].params] for name in names}
    return {
        name: (float(np.quantile(v, 0.05, method="lower")), float(np.quantile(v, 0.95, method="higher")))
        for name, v in chosen.items()
        if v
    }
