"""Nested subsets for rungs: the first n questions of one fixed order in which every prefix holds each category in proportion.

An early rung scores the first n, a later one those and more. Scores of two rungs are different quantities: see
`statistics.Score.items`.
"""

from collections.abc import Sequence

from data.fingerprint import digest
from evaluators.benchmark import Item


def subset(items: Sequence[Item], n: int) -> list[Item]:
    """The items of the first n questions, samples of one question together. Raises ValueError for n below 1.

    Depends on the ids and categories alone, not on the order of the items. A category with c of all N questions has n c / N
    of the first n, rounded up or down.
    """
    if n < 1:
        raise ValueError(f"{n = } questions: give at least 1")
    questions: dict[str, list[Item]] = {}
    for item in items:
        questions.setdefault(item.group or item.id, []).append(item)
    chosen = _order({name: group[0].category for name, group in questions.items()})[:n]
    return [item for name in chosen for item in questions[name]]


def _order(categories: dict[str, str]) -> list[str]:
    """All questions, by the quota method of Balinski and Young (1975): each step takes from a category that is not yet above
    its share, the one that would be due first. Within a category a hash decides."""
    members: dict[str, list[str]] = {}
    for name in sorted(categories, key=digest):
        members.setdefault(categories[name], []).append(name)
    taken, order = dict.fromkeys(members, 0), list[str]()
    for step in range(1, len(categories) + 1):
        below = [c for c in members if taken[c] * len(categories) < step * len(members[c])]
        due = min(below, key=lambda c: ((taken[c] + 1) / len(members[c]), digest(c)))
        order.append(members[due][taken[due]])
        taken[due] += 1
    return order
