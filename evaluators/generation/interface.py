"""What every engine does: open a checkpoint, and complete requests. The turns of a conversation are the same for all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data.checkpoints import Checkpoint
from evaluators.benchmark import Completion, Item, Sampling

Message = dict[str, str]
GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """One answer that is wanted: a conversation that ends with the user, or `raw` text to be continued.

    `id` seeds the sampling, so a request draws the same tokens whatever stands beside it in a batch.
    """

    id: str
    messages: tuple[Message, ...]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stops: tuple[str, ...] = ()
    raw: bool = False

    @property
    def text(self) -> str:
        """What the user said last; all that there is of a raw request."""
        return self.messages[-1]["content"]


class Engine(Protocol):
    """Completes requests with one checkpoint at a time."""

    def open(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint the one that answers; what it shares with the one before is kept."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order. Raises EvaluationFailed; no answer is ever made up."""

    def close(self) -> None:
        """Give back memory, devices and processes."""

    def about(self) -> dict[str, Any]:
        """Names and versions of what answers, for the record."""


def answer(engine: Engine, items: Sequence[Item], max_new_tokens: int, sampling: Sampling) -> list[list[Completion]]:
    """One completion per turn of each item, in the order of the items; every turn sees the answers before it."""
    talks = [_history(item) for item in items]
    answers: list[list[Completion]] = [[] for _ in items]
    for turn in range(max((len(item.turns) for item in items), default=0)):
        active = [i for i, item in enumerate(items) if turn < len(item.turns)]
        for i in active:
            talks[i].append({"role": "user", "content": items[i].turns[turn]})
        wanted = [_request(items[i], turn, talks[i], max_new_tokens, sampling) for i in active]
        for i, completion in zip(active, engine.complete(wanted), strict=True):
            talks[i].append({"role": "assistant", "content": completion.text})
            answers[i].append(completion)
    return answers


def _history(item: Item) -> list[Message]:
    """The worked examples that come before an item's first turn."""
    pairs: Iterable[tuple[str, str]] = item.shots
    return [m for asked, said in pairs for m in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})]


def _request(item: Item, turn: int, talk: list[Message], max_new_tokens: int, sampling: Sampling) -> Request:
    name = f"{item.id}/{turn}" if turn else item.id
    return Request(name, tuple(talk), max_new_tokens, item.sampling or sampling, item.stops, item.raw)
