"""Nested subsets for rungs: the first questions of one fixed order in which every prefix holds each category in proportion.

An early rung scores the first n, a later one those and more. Scores of two rungs are different quantities: see
`statistics.Score.items`.
"""

from collections.abc import Sequence
from math import ceil

from data.fingerprint import digest
from evaluators.benchmark import Item


def subset(items: Sequence[Item], share: float) -> list[Item]:
    """The items of a share of the questions, rounded up, in the order in which they came. Raises ValueError.

    Which ones depends on the ids and categories alone: a category with c of all N questions has n c / N of the first n, rounded
    up or down. All samples of a question go with it.
    """
    if not 0 < share <= 1:
        raise ValueError(f"{share = } of the questions: give one above 0, at most 1")
    if share == 1:
        return list(items)
    categories = {_question(item): item.category for item in items}
    chosen = set(_order(categories)[: ceil(share * len(categories) - 1e-9)])
    return [item for item in items if _question(item) in chosen]


def _question(item: Item) -> str:
    return item.group or item.id


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
