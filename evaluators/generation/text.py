"""Between text and tokens: the prompt of a request, where an answer ends, and the text of it."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from data.tokens import render
from evaluators.benchmark import Completion, EvaluationFailed
from evaluators.generation.interface import Request


class Text:
    """The tokenizer of a checkpoint, with the tokens that end an answer and the room its model has."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer = tokenizer
        self.ends = _ends(tokenizer, model)
        self._silent = set(tokenizer.all_special_ids)
        self._positions: int | None = getattr(model.config, "max_position_embeddings", None)
        known = (tokenizer.pad_token_id, *sorted(self.ends), 0)
        self.pad: int = next(token for token in known if token is not None)

    def prompt(self, request: Request) -> list[int]:
        """Token ids of a prompt, cut on the left so that the answer still fits into the model's positions."""
        if request.raw:
            ids: list[int] = self._tokenizer(request.text)["input_ids"]
        else:
            ids = self._tokenizer(render(self._tokenizer, request.messages, prompt=True), add_special_tokens=False)["input_ids"]
        room = self._positions - request.max_new_tokens if self._positions else len(ids)
        if self._positions and room <= 0:
            raise EvaluationFailed(
                f"max_new_tokens = {request.max_new_tokens} leaves no room in the model's {self._positions} positions"
            )
        return ids[-room:] or [next(iter(sorted(self.ends)), self.pad)]

    def over(self, said: list[int], request: Request) -> bool:
        """Whether an answer has come to its end with its last token."""
        if said[-1] in self.ends or len(said) >= request.max_new_tokens:
            return True
        # The whole text decides; the last tokens, which are cheap to look at, only ask.
        return self._stopped(self._tail(said, request.stops), request) and self._stopped(said, request)

    def _stopped(self, said: Sequence[int], request: Request) -> bool:
        return _stop(self._decoded(said), request.stops) is not None

    def _tail(self, said: Sequence[int], stops: Sequence[str]) -> list[int]:
        """The last tokens that have text: a stop string spans at most as many as it has bytes."""
        longest = max((len(stop.encode()) + 1 for stop in stops), default=0)
        return list(islice((token for token in reversed(said) if token not in self._silent), longest))[::-1]

    def cut(self, said: Sequence[int], request: Request) -> list[int]:
        """An answer up to the token that ends it, from an engine that may have gone on."""
        place = next((i for i in range(1, len(said) + 1) if self.over(list(said[:i]), request)), len(said))
        return list(said[:place])

    def completion(self, said: Sequence[int], request: Request) -> Completion:
        """The text of an answer, cut before the first stop string."""
        ended = bool(said) and said[-1] in self.ends
        kept = list(said[:-1] if ended else said)
        text = self._decoded(kept)
        cut = _stop(text, request.stops)
        return Completion(text[:cut], len(kept), "stop" if ended or cut is not None else "length")

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def _ends(tokenizer: Any, model: Any) -> set[int]:
    """Every token that the tokenizer, the model or its generation config names as an end: chat models have several."""
    named = (tokenizer.eos_token_id, model.config.eos_token_id, getattr(model.generation_config, "eos_token_id", None))
    return {int(end) for ends in named if ends is not None for end in (ends if isinstance(ends, list | tuple) else [ends])}
