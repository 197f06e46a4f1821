"""The benchmarks of the toy world: word problems, one-line functions, and conversations under a fixed rubric."""

from collections.abc import Sequence
from typing import Any

from data.toy import problems
from evaluators.benchmark import Benchmark, Completion, Item, Scale, Verdict
from evaluators.config import ToyConfig
from evaluators.execute import confinement, execute
from evaluators.gsm8k import final_number


class _Toy(Benchmark):
    ability: str

    def __init__(self, config: ToyConfig, unsandboxed: bool = False) -> None:
        self._config = config
        self._unsandboxed = unsandboxed
        self.max_new_tokens = config.max_new_tokens

    def items(self) -> list[Item]:
        made = problems.items(self.ability, self._config.split, self._config.limit)
        return [_item(i, item) for i, item in enumerate(made)]


class ToyMath(_Toy):
    """Right when the number behind `#### ` is the answer: a sentence that holds it does not count."""

    ability = "math"

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        numbers = [final_number(turns[0].text) for turns in answers]
        return [
            Verdict(item.id, float(number == item.reference["answer"]), number is not None)
            for item, number in zip(items, numbers, strict=True)
        ]


class ToyCode(_Toy):
    """Right when the function gives the right value for five arguments."""

    ability = "code"

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        programs = [_program(item.reference, turns[0].text) for item, turns in zip(items, answers, strict=True)]
        return [
            Verdict(item.id, float(ended.verdict == "passed"), "def " in turns[0].text, ended.detail)
            for item, turns, ended in zip(items, answers, execute(programs, self._unsandboxed), strict=True)
        ]

    def extras(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        return confinement(self._unsandboxed)


class ToyChat(_Toy):
    """1 to 10 by a fixed rubric. Half of the items are word problems asked in conversation, half are instructions.

    Each turn gives up to 4.5 points: 1.5 for an answer in a sentence (it ends like one and has no `####`), 3 more when it
    also says what was asked for.
    """

    ability = "chat"
    scale: Scale = "ten"
    judge = "toy rubric"

    def items(self) -> list[Item]:
        # A third of what is generated are problems; four times the number and some more holds enough of both.
        made = problems.items(self.ability, self._config.split, 4 * self._config.limit + 40)
        kinds = [[item for item in made if item.check["kind"] == kind] for kind in ("problem", "instruction")]
        mixed = [item for pair in zip(*kinds, strict=False) for item in pair]
        return [_item(i, item) for i, item in enumerate(mixed[: self._config.limit])]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        return [_rated(item, [turn.text for turn in turns]) for item, turns in zip(items, answers, strict=True)]


def _item(number: int, item: problems.ToyItem) -> Item:
    turns = tuple(message["content"] for message in item.messages if message["role"] == "user")
    return Item(str(number), turns, dict(item.check), str(item.check.get("kind", "")))


def _program(check: dict[str, Any], code: str) -> str:
    tests = [f"assert {check['entry_point']}({x!r}) == {y!r}" for x, y in check["cases"]]
    return "\n".join([code, *tests])


def _rated(item: Item, replies: list[str]) -> Verdict:
    points = [_points(reply, wanted) for reply, wanted in zip(replies, item.reference["replies"], strict=True)]
    return Verdict(item.id, 1 + sum(points), any(replies), {"points": points, "kind": item.category})


def _points(reply: str, wanted: str) -> float:
    sentence = reply.endswith((".", "!")) and "####" not in reply
    return 1.5 * sentence + 3.0 * (sentence and reply == wanted)
