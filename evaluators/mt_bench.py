"""MT-Bench's questions (Zheng et al., arXiv 2306.05685): 80 conversations of two turns, rated 1 to 10.

`offline-rules` stands in for a judge where none can be reached. It looks at the form of an answer only, so its ratings say
nothing about quality and are never reported as MT-Bench.
"""

from collections.abc import Sequence
from statistics import fmean

from evaluators.benchmark import Benchmark, Completion, Item, Scale, Verdict
from evaluators.config import MtBenchConfig
from evaluators.items import rows


class MtBench(Benchmark):
    """The questions of a file in FastChat's format."""

    scale: Scale = "ten"

    def __init__(self, config: MtBenchConfig) -> None:
        self._config = config
        self.max_new_tokens = config.max_new_tokens
        self.judge = config.judge

    def items(self) -> list[Item]:
        found = rows(self._config.path, self._config.limit, {"question_id": int, "turns": list, "category": str})
        return [Item(str(row["question_id"]), tuple(map(str, row["turns"])), category=row["category"]) for row in found]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        return [_verdict(item, turns) for item, turns in zip(items, answers, strict=True)]


def _verdict(item: Item, turns: Sequence[Completion]) -> Verdict:
    ratings = [offline_rating(turn.text) for turn in turns]
    answered = any(turn.text.strip() for turn in turns)
    return Verdict(item.id, fmean(ratings), answered, {"ratings": ratings, "category": item.category})


def offline_rating(text: str) -> float:
    """1 to 10 by form: there is an answer, of some length, in varied words, that comes to an end."""
    words = text.split()
    varied = len(set(words)) / len(words) if words else 0.0
    return 1 + 3 * bool(words) + 2 * min(1.0, len(words) / 50) + 2 * varied + 2 * text.rstrip().endswith((".", "!", "?"))
