"""What every benchmark is: items, prompts, verdicts on completions, and a score with its error.

Completions go in and verdicts come out as plain data: scoring needs no model and no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Scale = Literal["unit", "ten"]
"""How a benchmark is published: 0 to 1, or 1 to 10."""


class EvaluationFailed(RuntimeError):
    """A benchmark that could not be run or judged to the end. It has no score, least of all 0."""


@dataclass(frozen=True)
class Item:
    """One question: the user's turns, and what scoring needs to know."""

    id: str
    turns: tuple[str, ...]
    reference: Any = None
    category: str = ""


@dataclass(frozen=True)
class Completion:
    """The model's answer to one turn. `finish` is `stop` (it ended by itself) or `length` (it was cut)."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Verdict:
    """The score of one item on the benchmark's scale; `answered` is false where no answer could be read."""

    id: str
    score: float
    answered: bool = True
    detail: dict[str, Any] = field(default_factory=dict)


class Benchmark(Protocol):
    """A benchmark, built from its config."""

    scale: Scale
    max_new_tokens: int
    judge: str | None
    """Identity of the judge, None where answers are checked by rule."""

    def items(self) -> list[Item]:
        """The items in a fixed order; a smaller limit gives the first of them."""
        ...

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        """One verdict per item, from one completion per turn. Raises EvaluationFailed; never scores a failure as 0."""
        ...
