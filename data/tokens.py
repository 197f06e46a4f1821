"""Conversations to tokens: the model's chat template, and loss on what the assistant said only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.formats import Conversation

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


@dataclass(frozen=True)
class Tokens:
    """One example: token ids and labels of equal length; labels are IGNORED outside the assistant's turns."""

    input_ids: list[int]
    labels: list[int]


def render(tokenizer: Any, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
    """The text of a conversation under the tokenizer's template; with `prompt`, up to where the assistant speaks."""
    template = tokenizer.chat_template or DEFAULT_TEMPLATE
    return str(
        tokenizer.apply_chat_template(list(messages), chat_template=template, tokenize=False, add_generation_prompt=prompt)
    )


def tokenise(tokenizer: Any, messages: Conversation, max_length: int) -> Tokens:
    """Token ids and labels of a conversation, at most `max_length` long; whole turns are cut from the end.

    A conversation whose first exchange is longer than `max_length` is cut in the middle of that exchange. The tokenizer
    must be a fast one (offsets). Raises ValueError for a template that rewrites earlier turns, since no loss mask would
    be right under it.
    """
    kept = messages
    example = _whole(tokenizer, kept)
    while len(example.input_ids) > max_length and _exchanges(kept) > 1:
        kept = kept[:-2]
        example = _whole(tokenizer, kept)
    return Tokens(example.input_ids[:max_length], example.labels[:max_length])


def _whole(tokenizer: Any, messages: Conversation) -> Tokens:
    text = render(tokenizer, messages)
    spans = [_span(tokenizer, messages, i, text) for i, m in enumerate(messages) if m["role"] == "assistant"]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    spoken = [any(a <= start and end <= b for a, b in spans) for start, end in encoded["offset_mapping"]]
    return Tokens(ids, [token if said else IGNORED for token, said in zip(ids, spoken, strict=True)])


def _span(tokenizer: Any, messages: Conversation, turn: int, text: str) -> tuple[int, int]:
    """Where in `text` the assistant's turn stands, its end-of-turn marker included."""
    before = render(tokenizer, messages[:turn], prompt=True)
    after = render(tokenizer, messages[: turn + 1])
    if not (text.startswith(before) and text.startswith(after)):
        raise ValueError("the chat template rewrites earlier turns, so the assistant's tokens cannot be told apart")
    return len(before), len(after)


def _exchanges(messages: Conversation) -> int:
    return sum(message["role"] == "assistant" for message in messages)
