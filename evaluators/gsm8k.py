"""GSM8K: grade-school word problems (Cobbe et al., arXiv 2110.14168).

Correct when the number behind the first `#### ` of the answer is within 1e-4 of the reference, commas dropped: the rule of
gsm8k-ScRel, whose data the paper trains on.
"""

import re
from collections.abc import Sequence

from evaluators.benchmark import Benchmark, Completion, Item, ItemsUnusable, Verdict
from evaluators.config import Gsm8kConfig
from evaluators.items import rows

NUMBER = re.compile(r"#### (-?[0-9.,]+)")


class Gsm8k(Benchmark):
    """The test questions of a local file, asked zero-shot through the model's chat template."""

    def __init__(self, config: Gsm8kConfig) -> None:
        self._config = config
        self.max_new_tokens = config.max_new_tokens

    def items(self) -> list[Item]:
        found = rows(self._config.path, self._config.limit, {"question": str, "answer": str})
        return [Item(str(i), (row["question"],), self._gold(i, row["answer"])) for i, row in enumerate(found)]

    def _gold(self, number: int, answer: str) -> float:
        gold = final_number(answer)
        if gold is None:
            raise ItemsUnusable(f"{self._config.path}: item {number} has no number behind '#### ' in its answer")
        return gold

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        return [_verdict(item, turns[0].text) for item, turns in zip(items, answers, strict=True)]


def final_number(text: str) -> float | None:
    """The number behind the first `#### `, None where there is none that can be read."""
    found = NUMBER.search(text)
    try:
        return float(found.group(1).replace(",", "")) if found else None
    except ValueError:
        return None


def _verdict(item: Item, text: str) -> Verdict:
    number = final_number(text)
    correct = number is not None and abs(number - item.reference) < 1e-4
    return Verdict(item.id, float(correct), number is not None, {"number": number, "reference": item.reference})
