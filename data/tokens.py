"""Conversations to tokens: the model's chat template, and loss on what the assistant said only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from data.formats import BadRow, Conversation

IGNORED = -100  # the label that torch's cross entropy skips

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'ASSISTANT:\n' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% endfor %}"
    # A space at the end would become part of the first word's token in training, and not in generation.
    "{% if add_generation_prompt %}{{ 'ASSISTANT:\n' }}{% endif %}"
)
"""For base models that bring none: Vicuna's roles on lines of their own, the end-of-sequence token after each answer."""

TAIL = 64  # tokens whose letters are tokenised again where a text is cut
LETTERS_PER_TOKEN = 5
"""More than a token has on average: text of so many letters a token is probably too long, and is looked at first."""

Ids = NDArray[np.int32]
Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """One example: token ids and labels of equal length; labels are IGNORED outside the assistant's turns.

    `cut` is true where turns at the end did not fit.
    """

    input_ids: Ids
    labels: Ids
    cut: bool = False


def render(tokenizer: Any, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
    """The text of a conversation under the tokenizer's template; with `prompt`, up to where the assistant speaks."""
    template = tokenizer.chat_template or DEFAULT_TEMPLATE
    return str(
        tokenizer.apply_chat_template(list(messages), chat_template=template, tokenize=False, add_generation_prompt=prompt)
    )


def tokenise(tokenizer: Any, conversations: Sequence[Conversation], max_length: int) -> list[Tokens | BadRow]:
    """Tokens of each conversation, at most `max_length` long: its first whole exchanges, as many as fit.

    A conversation whose first exchange does not fit, or that the template refuses, is a BadRow. The tokenizer must be a fast
    one. Raises ValueError for a template that rewrites earlier turns, since no loss mask would be right under it.
    """
    found: list[Tokens | BadRow | None] = [None] * len(conversations)
    trying = {i: _opening(messages, LETTERS_PER_TOKEN * max_length) for i, messages in enumerate(conversations)}
    cut: set[int] = set()  # known to hold more than fits
    while trying:
        results = _attempt(tokenizer, list(trying.values()), max_length)
        again = {}
        for (i, messages), result in zip(trying.items(), results, strict=True):
            if isinstance(result, int):
                # What stands alone may have other tokens at its end than in the whole: it is measured again.
                cut.add(i)
                again[i] = _first(messages, result)
            elif isinstance(result, Tokens) and not result.cut and i not in cut and len(messages) < len(conversations[i]):
                again[i] = conversations[i]
            else:
                found[i] = replace(result, cut=True) if isinstance(result, Tokens) and i in cut else result
        trying = again
    return [one for one in found if one is not None]


def _attempt(tokenizer: Any, talks: Sequence[Conversation], max_length: int) -> list[Tokens | BadRow | int]:
    """For each talk its tokens where they fit; else the number of its exchanges that do."""
    results: dict[int, Tokens | BadRow | int] = {}
    openings: dict[int, tuple[str, Tokens]] = {}
    texts: dict[int, str] = {}
    for i, messages in enumerate(talks):
        try:
            texts[i] = render(tokenizer, messages)
        except TemplateError as error:
            results[i] = BadRow("refused_by_template", str(error))
    encoded: Any = (
        tokenizer(list(texts.values()), add_special_tokens=False, return_attention_mask=False, verbose=False) if texts else None
    )
    for row, (i, text) in enumerate(texts.items()):
        ids = np.asarray(encoded["input_ids"][row], np.int32)
        if len(ids) <= max_length:
            spans = _spans(tokenizer, talks[i], text, len(text))
            results[i] = Tokens(ids, _labels(encoded, row, ids, spans, len(text)))
            continue
        end = encoded.token_to_chars(row, max_length - 1).end
        spans = [span for span in _spans(tokenizer, talks[i], text, end) if span[1] <= end][: _exchanges(talks[i]) - 1]
        results[i] = len(spans) or BadRow("answer_beyond_max_length", f"the first answer ends behind token {max_length}")
        if spans:
            labels = _labels(encoded, row, ids, spans, len(text))
            openings[i] = _beginning(encoded, row, text, spans[-1][1], Tokens(ids, labels, cut=True))
    results |= _if_the_same_alone(tokenizer, openings)
    return [results[i] for i in range(len(talks))]


def _beginning(encoded: Any, row: int, text: str, end: int, whole: Tokens) -> tuple[str, Tokens]:
    """The tokens before a letter, and the last of the text that they stand for."""
    size = _token_at(encoded, row, end, len(text), len(whole.input_ids))
    tail = encoded.token_to_chars(row, max(0, size - TAIL)).start
    return text[tail:end], replace(whole, input_ids=whole.input_ids[:size], labels=whole.labels[:size])


def _if_the_same_alone(tokenizer: Any, openings: dict[int, tuple[str, Tokens]]) -> dict[int, Tokens]:
    """The beginnings whose last tokens are the same where the text ends there. Others have to be tokenised again."""
    if not openings:
        return {}
    alone = tokenizer([tail for tail, _ in openings.values()], add_special_tokens=False, verbose=False)["input_ids"]
    pairs = zip(openings.items(), alone, strict=True)
    return {i: tokens for (i, (_, tokens)), tail in pairs if tail == tokens.input_ids[-TAIL:].tolist()}


def _opening(messages: Conversation, letters: int) -> Conversation:
    """The first exchanges, until they hold more letters than are wanted."""
    total = 0
    for turn, message in enumerate(messages):
        total += len(message["content"])
        if total > letters and message["role"] == "assistant":
            return messages[: turn + 1]
    return messages


def _spans(tokenizer: Any, messages: Conversation, text: str, until: int) -> list[Span]:
    """Where in `text` the assistant's turns stand that begin before letter `until`, end-of-turn markers included."""
    spans: list[Span] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:turn], prompt=True)
        if len(before) >= until:
            break
        after = text if turn == len(messages) - 1 else render(tokenizer, messages[: turn + 1])
        if not (text.startswith(before) and text.startswith(after)):
            raise ValueError("the chat template rewrites earlier turns, so the assistant's tokens cannot be told apart")
        spans.append((len(before), len(after)))
    return spans


def _labels(encoded: Any, row: int, ids: Ids, spans: Sequence[Span], letters: int) -> Ids:
    """The ids of tokens that lie whole within a span, IGNORED elsewhere."""
    labels = np.full_like(ids, IGNORED)
    for start, end in spans:
        first = _token_at(encoded, row, start, letters, len(ids))
        if first < len(ids) and encoded.token_to_chars(row, first).start < start:
            first += 1
        last = _token_at(encoded, row, end, letters, len(ids))
        labels[first:last] = ids[first:last]
    return labels


def _token_at(encoded: Any, row: int, letter: int, letters: int, tokens: int) -> int:
    """The first token that holds a letter, or one behind it where a tokenizer drops letters; `tokens` at the end."""
    found = (encoded.char_to_token(row, at) for at in range(letter, letters))
    return next((int(token) for token in found if token is not None), tokens)


def _first(messages: Conversation, exchanges: int) -> Conversation:
    ends = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: ends[exchanges - 1] + 1]


def _exchanges(messages: Conversation) -> int:
    return sum(message["role"] == "assistant" for message in messages)
