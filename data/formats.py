"""From a row of a data set to a conversation: one function per format, all ending in the same checks.

A conversation is a list of `{"role": system|user|assistant, "content": str}`: an optional system message first, then user
and assistant in turn, ending with the assistant.
"""

from collections.abc import Callable
from typing import Any

from data.config import Format

Message = dict[str, str]
Conversation = list[Message]
Row = dict[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}


class BadRow(ValueError):
    """A row that cannot be used; `reason` is a short name that quarantine counts group by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def rows_of(row: Any, format: Format) -> list[Any]:
    """A row for each answer: a gsm8k_rft row may hold one question with a list of answers, which count as rows."""
    if format == "gsm8k_rft" and isinstance(row, dict) and isinstance(row.get("answers"), list) and row["answers"]:
        return [{"question": row.get("question"), "answer": answer} for answer in row["answers"]]
    return [row]


def conversation(row: Any, format: Format) -> Conversation:
    """The conversation that a row holds. Raises BadRow with the reason where it holds none."""
    if not isinstance(row, dict):
        raise BadRow("wrong_type", f"a row is an object, not {type(row).__name__}")
    messages = PARSERS[format](row)
    _check_order(messages)
    return messages


def _gsm8k(row: Row) -> Conversation:
    return [_message("user", row, "question"), _message("assistant", row, "answer")]


def _gsm8k_rft(row: Row) -> Conversation:
    """One reasoning path a row: question and answer, or query and response as in gsm8k-ScRel's files."""
    return [
        _message("user", row, "question" if "question" in row else "query"),
        _message("assistant", row, "answer" if "answer" in row else "response"),
    ]


def _alpaca(row: Row) -> Conversation:
    asked = _message("user", row, "instruction")
    given = row.get("input") or ""
    if not isinstance(given, str):
        raise BadRow("wrong_type", "field 'input' is not text")
    if given.strip():
        asked = {"role": "user", "content": f"{asked['content']}\n\n{given}"}
    return [asked, _message("assistant", row, "output")]


def _sharegpt(row: Row) -> Conversation:
    turns = _turns(row, "conversations")
    named = [{**turn, "role": SHAREGPT_ROLES.get(str(turn.get("from")), "unknown")} for turn in turns]
    messages = [_message(turn["role"], turn, "value") for turn in named]
    # Vicuna's data starts in the middle of some talks: what the assistant said before any question teaches nothing.
    while messages and messages[0]["role"] == "assistant":
        messages.pop(0)
    return messages


def _messages(row: Row) -> Conversation:
    return [_message(str(turn.get("role")), turn, "content") for turn in _turns(row, "messages")]


PARSERS: dict[Format, Callable[[Row], Conversation]] = {
    "gsm8k": _gsm8k,
    "gsm8k_rft": _gsm8k_rft,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
}


def _turns(row: Row, field: str) -> list[Row]:
    turns = row.get(field)
    if turns is None:
        raise BadRow("missing_field", f"field {field!r}")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("wrong_type", f"field {field!r} is not a list of turns")
    return turns


def _message(role: str, row: Row, field: str) -> Message:
    text = row.get(field)
    if text is None:
        raise BadRow("missing_field", f"field {field!r}")
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"field {field!r} is not text")
    if not text.strip():
        raise BadRow("empty", f"field {field!r}")
    _check_unicode(text, field)
    return {"role": role, "content": text}


def _check_unicode(text: str, field: str) -> None:
    """Bytes that are no UTF-8 come from the readers as surrogates of the range that Python keeps for them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff":
            raise BadRow("broken_utf8", f"field {field!r} holds bytes that are no UTF-8") from error
        raise BadRow("broken_unicode", f"field {field!r} holds half of a surrogate pair") from error


def _check_order(messages: Conversation) -> None:
    talk = messages[1:] if messages and messages[0]["role"] == "system" else messages
    roles = [message["role"] for message in talk]
    if not talk or len(talk) % 2 or roles != ["user", "assistant"] * (len(talk) // 2):
        raise BadRow("turns_out_of_order", " ".join(roles) or "no turns")
