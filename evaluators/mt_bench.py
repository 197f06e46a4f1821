"""MT-Bench (Zheng et al., arXiv 2306.05685): 80 conversations of two turns, each answer rated 1 to 10 by a judge.

Questions, reference answers and judge prompts come from FastChat's files. The score is the mean over all judgments; its
error is clustered by question. `offline-rules` in the place of a judge gives no MT-Bench score.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from statistics import fmean
from typing import Any

from data.store import Store
from evaluators.benchmark import Benchmark, Completion, Item, ItemsUnusable, Sampling, Scale, Verdict
from evaluators.config import MtBenchConfig
from evaluators.items import rows
from evaluators.judge import prompts, ratings, references
from evaluators.judge.client import key
from evaluators.judge.config import JudgeConfig, PriceConfig
from evaluators.judge.cost import total
from evaluators.judge.offline import offline_rating
from evaluators.judge.open import named
from evaluators.judge.panel import Panel, Rating

TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
"""How answers are sampled, by category, as in FastChat; 0.7 elsewhere."""


class MtBench(Benchmark):
    """The questions of a file in FastChat's format. Judgments are kept in the store, where there is one."""

    scale: Scale = "ten"

    def __init__(self, config: MtBenchConfig, store: Store | None = None) -> None:
        self._config = config
        self._asked = config.judge if isinstance(config.judge, JudgeConfig) else None
        self._store = store
        self.max_new_tokens = config.max_new_tokens
        self._prompts, self._wording = prompts.load(config.prompts)
        self.judge = named(config, self._wording)

    def items(self) -> list[Item]:
        found = rows(self._config.path, self._config.limit, {"question_id": int, "turns": list, "category": str})
        known = references.references(self._config.references, self._config.corrected_references)
        return [self._item(row, known, choice) for row in found for choice in range(self._config.choices)]

    def check(self) -> None:
        self.items()
        if self._asked:
            key(self._asked)

    def notes(self) -> list[str]:
        """Who rates, and references that are known to be wrong."""
        if not self._asked:
            return []
        wrong = self._wrong({int(item.group) for item in self.items() if item.reference})
        told = f"references known to be wrong for questions {', '.join(map(str, wrong))}; give corrected_references"
        return [f"rated by {self.judge}", *([told] if wrong else [])]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        if not self._asked:
            return [_by_form(item, turns) for item, turns in zip(items, answers, strict=True)]
        return self._judged(self._asked, items, [[turn.text for turn in turns] for turns in answers])

    def extras(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """The judge and what it cost; answers that hold ratings of their own; references that are known to be wrong."""
        if not self._asked:
            return {}
        used = {int(verdict.group) for verdict in verdicts if verdict.detail["category"] in references.NEEDED}
        about: dict[str, Any] = {
            "judge": {
                "model": verdicts[0].detail["model"],
                "local": self._asked.path is not None,
                "prompts": self._wording,
                "own_words": self._config.prompts is None,
                "cost": total(verdict.detail["cost"] for verdict in verdicts),
                "injections": [v.id for v in verdicts if v.detail["injection"]],
                "wrong_references": self._wrong(used),
            },
            "turns": ratings.fastchat_means([verdict.detail["ratings"] for verdict in verdicts]),
            "categories": _by_category(verdicts),
        }
        if self._asked.fastchat_compat:
            about["judge"]["dropped"] = sum(v.detail["ratings"].count(None) for v in verdicts)
        return about

    def _item(self, row: Mapping[str, Any], known: references.References, choice: int) -> Item:
        number, category = row["question_id"], row["category"]
        turns = tuple(map(str, row["turns"]))
        temperature = 0.0 if self._config.deterministic_answers else TEMPERATURES.get(category, 0.7)
        return Item(
            f"{number}#{choice}" if self._config.choices > 1 else str(number),
            turns,
            self._reference(number, category, len(turns), known),
            category,
            group=str(number),
            sampling=Sampling(temperature, seed=self._config.seed + choice),
        )

    def _reference(self, number: int, category: str, turns: int, known: references.References) -> tuple[str, ...]:
        if category not in references.NEEDED or not self._asked:
            return ()
        found = known.get(number, ())
        if len(found) < turns:
            where = self._config.references or "mt_bench.references is not given"
            needs = "is judged against reference answers and has none for each turn"
            raise ItemsUnusable(f"{where}: question {number} ({category}) {needs}; give FastChat's reference_answer file")
        return found

    def _wrong(self, questions: Iterable[int]) -> list[int]:
        return references.wrong(questions, self._config.corrected_references)

    def _judged(self, config: JudgeConfig, items: Sequence[Item], answers: Sequence[Sequence[str]]) -> list[Verdict]:
        asked = [
            prompts.asked(self._prompts, item.turns, turns[: turn + 1], item.reference)
            for item, turns in zip(items, answers, strict=True)
            for turn in range(len(turns))
        ]
        rated = iter(Panel(config, self._store).rate(asked))
        return [
            _verdict(item, turns, [next(rated) for _ in turns], config.price)
            for item, turns in zip(items, answers, strict=True)
        ]


def _verdict(item: Item, answers: Sequence[str], rated: Sequence[Rating], price: PriceConfig | None) -> Verdict:
    values = [rating.value for rating in rated]
    left = [value for value in values if value is not None]
    detail = {
        "category": item.category,
        "ratings": values,
        "replicates": [rating.replicates for rating in rated],
        "judgments": [rating.replies for rating in rated],
        "model": rated[0].model,
        "injection": any(map(ratings.suspicious, answers)),
        "cost": reduce(add, (rating.cost for rating in rated)).plain(price),
    }
    score = fmean(left) if left else 0.0  # with a weight of 0
    return Verdict(item.id, score, any(map(str.strip, answers)), detail, item.group, len(left) / len(values))


def _by_form(item: Item, turns: Sequence[Completion]) -> Verdict:
    found = [offline_rating(turn.text) for turn in turns]
    answered = any(turn.text.strip() for turn in turns)
    return Verdict(item.id, fmean(found), answered, {"ratings": found, "category": item.category}, item.group)


def _by_category(verdicts: Sequence[Verdict]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for verdict in verdicts:
        if verdict.weight:
            scores.setdefault(verdict.detail["category"], []).append(verdict.score)
    return {category: fmean(values) for category, values in sorted(scores.items())}
