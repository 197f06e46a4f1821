"""What every benchmark is: items, prompts, verdicts on completions, and a score with its error.

Completions go in and verdicts come out as plain data: scoring needs no model and no Ray.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Scale = Literal["unit", "ten"]
"""How a benchmark is published: 0 to 1, or 1 to 10."""


class EvaluationFailed(RuntimeError):
    """A benchmark that could not be run or judged to the end. It has no score, least of all 0.

    `cost` is what a judge was paid until then.
    """

    def __init__(self, message: str, cost: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.cost = cost


class ItemsUnusable(ValueError):
    """A benchmark whose items cannot be read; the message names file, place and field."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: greedily at temperature 0, else by nucleus sampling with noise that the item's id seeds."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Item:
    """One question: the user's turns, and what scoring needs to know. `raw` text is continued without a chat template.

    Items of one `group` are samples of one question. An answer ends before the first of the `stops`. `shots` are worked
    examples, pairs of question and answer, that come before the first turn. `sampling` None is the benchmark's.
    """

    id: str
    turns: tuple[str, ...]
    reference: Any = None
    category: str = ""
    group: str = ""
    raw: bool = False
    stops: tuple[str, ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    sampling: Sampling | None = None

    @property
    def prompt(self) -> dict[str, Any]:
        """What a model is shown and how it is to answer, as plain values: all of an item that its answer depends on."""
        values = asdict(self)
        return {name: values[name] for name in ("id", "turns", "raw", "stops", "shots", "sampling")}


@dataclass(frozen=True)
class Completion:
    """The model's answer to one turn. `finish` is `stop` (it ended by itself) or `length` (it was cut).

    `tokens` counts what was generated, the end-of-sequence token not among them, and a stop string that was cut off too.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Verdict:
    """The score of one item on the benchmark's scale; `answered` is false where no answer could be read.

    `weight` is the share of the item's judgments that count: 1, but under FastChat's rules, which drop what has no rating.
    """

    id: str
    score: float
    answered: bool = True
    detail: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    weight: float = 1.0


class Benchmark(ABC):
    """A benchmark, built from its config."""

    scale: Scale = "unit"
    judge: str | None = None
    """Identity of the judge with its prompts and references, None where answers are checked by rule."""
    sampling = Sampling()
    max_new_tokens: int

    @abstractmethod
    def items(self) -> list[Item]:
        """The items in a fixed order; a smaller limit gives the first of them."""

    @abstractmethod
    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        """One verdict per item, from one completion per turn. Raises EvaluationFailed; never scores a failure as 0."""

    def check(self) -> None:
        """Raises ItemsUnusable, or JudgeUnusable for a judge without its key, before anything is started."""
        self.items()

    def notes(self) -> list[str]:
        """What a person should know before paying for this benchmark."""
        return []

    def extras(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Further figures that are reported beside the score."""
        return {}

    def held_out(self) -> list[str]:
        """Questions of this benchmark that stand in training data and may not be trained on."""
        return []
