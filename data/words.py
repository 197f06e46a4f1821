"""Text as its words: what two texts are compared by, whatever their case, spacing and punctuation."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return WORD.findall(text.lower())


def question_id(text: str) -> int:
    """A 64-bit name for a question, equal for texts of equal words. A text without words is named by its letters."""
    said = " ".join(words(text)) or text
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True)
class HeldOut:
    """Questions that no source may train on, such as the dev split that trials are chosen by, each with all its answers."""

    questions: frozenset[int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "HeldOut":
        """From the questions as they are asked: the text of a conversation's first user message."""
        return cls(frozenset(map(question_id, texts)))

    def plain(self) -> list[int]:
        """In a fixed order, for fingerprints."""
        return sorted(self.questions)
