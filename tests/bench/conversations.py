"""Conversations of the paper's sizes, made from a seed: short specialist rows and long talks of several turns.

Lengths follow what is known of the sets. GSM8K RFT: 110,142 rows, questions of about 45 words, answers of about 55. Code
Alpaca: 20,022 rows, 20 words asked, 40 answered. ShareGPT: 86,060 talks of one to about twenty exchanges whose lengths are
spread log-normally, from a word to a page.
"""

import math
import random
from collections.abc import Iterator

SIZES = {"math": 110_142, "code": 20_022, "general": 86_060}
MADE = {"math": (45, 0.35, 55, 0.5, 1), "code": (20, 0.5, 40, 0.8, 1), "general": (35, 1.2, 130, 0.9, 20)}
"""Words of a question and of an answer (median, spread), and the most exchanges."""


def talks(kind: str, count: int, words: list[str], seed: int = 0) -> Iterator[list[dict[str, str]]]:
    """`count` conversations of a kind, in words drawn as often as in `words`."""
    asked, asked_spread, said, said_spread, most = MADE[kind]
    rng = random.Random(f"{kind}/{seed}")
    for number in range(count):
        exchanges = min(most, 1 + int(rng.expovariate(1 / 2.5))) if most > 1 else 1
        turns = []
        for turn in range(exchanges):
            mark = f"{number}. " if turn == 0 else ""  # no talk is another's duplicate
            turns.append({"role": "user", "content": mark + _text(rng, words, asked, asked_spread)})
            turns.append({"role": "assistant", "content": _text(rng, words, said, said_spread)})
        yield turns


def _text(rng: random.Random, words: list[str], median: float, spread: float) -> str:
    size = max(1, min(1500, round(median * math.exp(rng.gauss(0, spread)))))
    start = rng.randrange(max(1, len(words) - size))  # a passage: words in an order that people wrote
    return " ".join(words[start : start + size])
