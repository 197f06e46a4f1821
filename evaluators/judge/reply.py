"""What a judge is to the rest: something that completes messages. An endpoint and a model folder are alike here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from evaluators.benchmark import EvaluationFailed

Messages = Sequence[Mapping[str, str]]
"""Chat messages with `role` and `content`."""


@dataclass(frozen=True)
class Reply:
    """A judge's answer. `model` is the name that it gave itself; `seconds` include the pauses between attempts."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class CallFailed(Exception):
    """One call that got no reply; others may."""


class JudgeUnusable(EvaluationFailed):
    """A judge of which no call can be expected to succeed: no access, another model than was asked for, or down."""


class Judge(Protocol):
    """Completes messages between `async with`. The replicate tells repeated questions apart."""

    async def complete(self, messages: Messages, replicate: int) -> Reply:
        """Raises CallFailed, or JudgeUnusable where further calls are pointless."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
