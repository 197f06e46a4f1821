"""Decoding in a batch that stays full: a row that ends leaves it, and a waiting prompt takes its place.

What a row says does not depend on the rows beside it: positions and mask are its own, and where rounding could decide between
two tokens (`draw.py`) the row is decoded again by itself, with transformers' plain `generate`. That check is made in fp32
only. In bf16 the two best scores are often equal to the last bit, and greedy answers do depend on the batch, as everywhere.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from evaluators.generation import cache as caches
from evaluators.generation.draw import Draw, choose
from evaluators.generation.interface import Request

Over = Callable[[list[int], Request], bool]
"""Whether the tokens of an answer end it: an end-of-sequence token, a stop string, or the longest length."""
FREE = 4
"""A batch is filled up, or made smaller, when one in so many of its places is free."""


@dataclass
class Row:
    """A request in decoding: its prompt, its random numbers and what it has said so far."""

    index: int
    request: Request
    prompt: list[int]
    draw: Draw
    said: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def length(self) -> int:
        """Tokens that the cache holds once this row's last token has been read."""
        return len(self.prompt) + len(self.said)


class Decoder:
    """Decodes with one model, `size` rows at a time. `again` counts the rows that were decoded a second time, alone."""

    def __init__(self, model: Any, size: int, pad: int, over: Over) -> None:
        self._model, self._size, self._pad, self._over = model, size, pad, over
        self._exact = model.dtype == torch.float32
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.again = 0

    def run(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> list[list[int]]:
        """The tokens of each answer, its end-of-sequence token included."""
        waiting = [Row(i, r, p, Draw(r)) for i, (r, p) in enumerate(zip(requests, prompts, strict=True))]
        waiting.sort(key=lambda row: len(row.prompt))  # the longest come first: what does not fit shows at once
        said: dict[int, list[int]] = {}
        doubtful: list[Row] = []
        with torch.inference_mode():
            if not caches.serves(self._model):
                doubtful, waiting = waiting, []
            self._flow(waiting, said, doubtful)
            for row in doubtful:
                said[row.index] = self._alone(row)
        return [said[i] for i in range(len(requests))]

    def _flow(self, waiting: list[Row], said: dict[int, list[int]], doubtful: list[Row]) -> None:
        """Decode until nobody waits. Rows that have ended stay in the batch until enough have: leaving copies the cache."""
        running: list[Row] = []
        cache: Any = None
        while waiting or any(not row.ended for row in running):
            live = [i for i, row in enumerate(running) if not row.ended]
            enough = max(1, self._size // FREE)
            if waiting and self._size - len(live) >= enough:
                new = [waiting.pop() for _ in range(min(self._size - len(live), len(waiting)))]
                scores, filled = self._read(new)
                self._take(new, scores, said, doubtful)
                cache, running = self._merged(cache, running, live, filled, new)
            elif len(running) - len(live) >= enough:
                cache, running = self._merged(cache, running, live, None, [])
            else:
                self._take(running, self._step(running, cache), said, doubtful)

    def _merged(self, cache: Any, running: list[Row], live: list[int], filled: Any, new: list[Row]) -> tuple[Any, list[Row]]:
        """The rows that go on, and the new ones."""
        kept = [running[i] for i in live]
        if not live:
            return filled, new
        width = max((row.length - 1 for row in kept), default=0)
        return caches.merged(cache, live, width, filled), kept + new

    def _read(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        """Read prompts: the scores of their first tokens, and a cache that holds the prompts."""
        width = max(row.length for row in rows)
        ids = [[self._pad] * (width - row.length) + row.prompt for row in rows]
        cache = caches.fresh(self._model)
        return self._forward(ids, self._mask(rows, width), cache), cache

    def _step(self, rows: Sequence[Row], cache: Any) -> Any:
        """Read the last token of each row; the scores of the next ones."""
        width = cache.get_seq_length() + 1
        return self._forward([[row.said[-1]] for row in rows], self._mask(rows, width), cache)

    def _forward(self, ids: list[list[int]], mask: Any, cache: Any) -> Any:
        tokens = torch.tensor(ids, device=self._model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        last = {"logits_to_keep": 1} if self._keeps_last else {}
        output = self._model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **last
        )
        return output.logits[:, -1]

    def _mask(self, rows: Sequence[Row], width: int) -> Any:
        """1 where a row has a token, 0 where it has padding, (rows, width)."""
        lengths = torch.tensor([row.length for row in rows], device=self._model.device)
        columns = torch.arange(width, device=self._model.device)
        return (columns >= width - lengths[:, None]).long()

    def _take(self, rows: Sequence[Row], scores: Any, said: dict[int, list[int]], doubtful: list[Row]) -> None:
        """Give each row that goes on its next token, and note those that end with it."""
        live = [i for i, row in enumerate(rows) if not row.ended]
        chosen, near = choose(scores[live], [rows[i].draw for i in live])
        for i, token, doubt in zip(live, chosen, near, strict=True):
            row = rows[i]
            row.said.append(token)
            if doubt and self._exact:
                row.ended = True
                doubtful.append(Row(row.index, row.request, row.prompt, Draw(row.request)))
            elif self._over(row.said, row.request):
                row.ended = True
                said[row.index] = row.said

    def _alone(self, row: Row) -> list[int]:
        """One row by transformers' own loop, without padding."""
        self.again += 1
        ids = torch.tensor([row.prompt], device=self._model.device)
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                max_new_tokens=row.request.max_new_tokens, do_sample=False, pad_token_id=self._pad, eos_token_id=None
            ),
            logits_processor=[_Drawn(row.draw)],
            stopping_criteria=[_Ends(len(row.prompt), row.request, self._over)],
        )
        return list(output[0, len(row.prompt) :].tolist())


class _Drawn(LogitsProcessor):
    """The choice of `draw.py`, as a processor of transformers: all but the chosen token are ruled out."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        (token,), _ = choose(scores, [self._draw])
        return torch.full_like(scores, -float("inf")).index_fill_(1, torch.tensor([token], device=scores.device), 0.0)


class _Ends(StoppingCriteria):
    def __init__(self, start: int, request: Request, over: Over) -> None:
        self._start, self._request, self._over = start, request, over

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ended = self._over(input_ids[0, self._start :].tolist(), self._request)
        return torch.tensor([ended], device=input_ids.device)
