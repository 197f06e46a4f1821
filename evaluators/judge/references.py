"""Reference answers in FastChat's format: what a judge of a math, reasoning or coding question compares with."""

from collections.abc import Iterable

from evaluators.benchmark import ItemsUnusable
from evaluators.items import rows

NEEDED = ("math", "reasoning", "coding")
"""Categories that are judged against a reference, as FastChat does."""
KNOWN_WRONG = frozenset({104, 105, 109, 111, 113, 114, 120, 122, 124, 125, 126, 128, 130})
"""Questions whose answer in FastChat's reference_answer/gpt-4.jsonl is wrong in a turn (FastChat PR#3158, #3053)."""

References = dict[int, tuple[str, ...]]


def references(path: str | None, corrected: str | None) -> References:
    """Reference answers by question, one per turn; corrected ones take the place of others. Raises ItemsUnusable."""
    return (_read(path) if path else {}) | (_read(corrected) if corrected else {})


def wrong(used: Iterable[int], corrected: str | None) -> list[int]:
    """The questions whose reference is known to be wrong and was not corrected."""
    right = _read(corrected) if corrected else {}
    return sorted(KNOWN_WRONG & set(used) - right.keys())


def _read(path: str) -> References:
    return {row["question_id"]: _turns(path, row) for row in rows(path, None, {"question_id": int, "choices": list})}


def _turns(path: str, row: dict[str, list[dict[str, list[str]]]]) -> tuple[str, ...]:
    try:
        return tuple(map(str, row["choices"][0]["turns"]))
    except (IndexError, KeyError, TypeError) as error:
        raise ItemsUnusable(f"{path}: question {row['question_id']} has no choices[0].turns") from error
