"""The rating in a judge's reply.

Ours is the last `[[number]]`, and it must lie in 1 to 10: what a judge quotes from an answer comes before its verdict.
FastChat's (Zheng et al., arXiv 2306.05685, `fastchat/llm_judge`) is the first, with single brackets as a second try, of any
size; a reply without one counts as -1 and is left out of every mean.
"""

import re
from collections.abc import Sequence
from statistics import fmean

VERSION = 1  # raise it when the same reply would be read as another rating
DOUBLE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
SINGLE = re.compile(r"\[(\d+\.?\d*)\]")
INJECTION = re.compile(r"\[\[\s*\d")


def rating(reply: str) -> float | None:
    """The last rating in double brackets, None where there is none or it is not in 1 to 10."""
    found = DOUBLE.findall(reply)
    value = float(found[-1]) if found else None
    return value if value is not None and 1 <= value <= 10 else None


def fastchat_rating(reply: str) -> float | None:
    """FastChat's reading; None where it has -1."""
    found = DOUBLE.search(reply) or SINGLE.search(reply)
    return float(found[1]) if found else None


def fastchat_means(turns: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
    """FastChat's table from the ratings of each item's turns: a mean per turn, and one over all judgments that are left."""
    width = max(map(len, turns), default=0)
    means = {f"turn_{turn + 1}": [row[turn] for row in turns if turn < len(row)] for turn in range(width)}
    means["overall"] = [value for row in turns for value in row]
    return {name: _mean([v for v in values if v is not None]) for name, values in means.items()}


def suspicious(answer: str) -> bool:
    """Whether an answer holds what looks like a rating: it may want to speak for the judge."""
    return bool(INJECTION.search(answer))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
