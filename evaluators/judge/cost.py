"""What judgments cost."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.judge.config import PriceConfig


@dataclass(frozen=True)
class Cost:
    """Replies that were paid for, judgments that were there already, and tokens."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def plain(self, price: PriceConfig | None) -> dict[str, Any]:
        """With the money in US dollars, None where no price is given."""
        usd = (self.prompt_tokens * price.prompt + self.completion_tokens * price.completion) / 1e6 if price else None
        return asdict(self) | {"usd": usd}


def total(costs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of plain costs; the money is unknown as soon as a part of it is."""
    parts = list(costs)
    summed = {name: sum(part[name] for part in parts) for name in asdict(Cost())}
    usd = [part["usd"] for part in parts]
    return summed | {"usd": None if None in usd else sum(usd, 0.0)}


def judging(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The costs of the judges among the scores of an evaluation."""
    about = (score["extras"].get("judge", {}) for score in scores.values())
    return [judge["cost"] for judge in about if "cost" in judge]
