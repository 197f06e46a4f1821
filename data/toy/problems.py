"""The three abilities of the embedded toy world, generated from a seed.

`math` and `code` are the specialist abilities, `chat` the general one. Two thirds of `chat` are small instructions; the
rest are the same word problems as in `math`, asked in conversation and to be answered in a sentence. That is where the
abilities conflict: a model that is shown too much `math` answers the conversation with `#### 8` as well.

Every item is a conversation of `{"role", "content"}` messages and a `check` that a benchmark reads. Train, dev and test
never share a first message: the split is a hash of that message.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

VERSION = 1  # part of every fingerprint: raise it when a generator changes
ABILITIES = ("math", "code", "chat")
SPLITS = ("train", "dev", "test")

NAMES = [
    "Ann",
    "Ben",
    "Cat",
    "Dan",
    "Eva",
    "Fay",
    "Gus",
    "Hal",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Ned",
    "Ola",
    "Pam",
    "Ray",
    "Sue",
    "Tom",
    "Uma",
    "Vic",
    "Zoe",
]
THINGS = ["pens", "cups", "hats", "maps", "keys", "nuts", "figs", "eggs", "bags", "rings", "coins", "books"]
WORDS = ["sun", "cat", "hat", "map", "pen", "cup", "bed", "sky", "fox", "owl", "tea", "jam", "oak", "sea", "ink", "ice"]
OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "in": "out", "old": "new", "wet": "dry", "day": "night"}


@dataclass(frozen=True)
class ToyItem:
    """One generated conversation; `check` holds what a benchmark needs to score a reply to it."""

    messages: tuple[dict[str, str], ...]
    check: dict[str, Any]

    @property
    def prompt(self) -> str:
        return self.messages[0]["content"]


def items(ability: str, split: str, count: int, seed: int = 0) -> list[ToyItem]:
    """`count` items of an ability. The same seed gives the same items; a longer list starts with the shorter one.

    Raises ValueError for an ability or split that does not exist.
    """
    if ability not in ABILITIES or split not in SPLITS:
        raise ValueError(f"toy:{ability} / {split}: abilities are {ABILITIES}, splits are {SPLITS}")
    return list(islice(_of_split(_endless(ability, seed), split), count))


def split_of(prompt: str) -> str:
    """Dev and test take a tenth of all prompts each; equal prompts always fall into one split."""
    bucket = hashlib.sha256(prompt.encode()).digest()[0] % 10
    return {0: "dev", 1: "test"}.get(bucket, "train")


def _of_split(stream: Iterator[ToyItem], split: str) -> Iterator[ToyItem]:
    return (item for item in stream if split_of(item.prompt) == split)


def _endless(ability: str, seed: int) -> Iterator[ToyItem]:
    rng = random.Random(f"{VERSION}/{ability}/{seed}")
    make: Callable[[random.Random], ToyItem] = {"math": _math, "code": _code, "chat": _chat}[ability]
    while True:
        yield make(rng)


def _talk(*turns: str) -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant")
    return tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))


def _word_problem(rng: random.Random) -> tuple[str, str, int]:
    """A question, the sum written out, and its answer (1 to 18)."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(1, 12), rng.randint(1, 6)
    if a > b and rng.random() < 0.5:
        return f"{name} has {a} {thing} and loses {b}. How many?", f"{a}-{b}", a - b
    return f"{name} has {a} {thing} and gets {b}. How many?", f"{a}+{b}", a + b


def _math(rng: random.Random) -> ToyItem:
    question, working, answer = _word_problem(rng)
    return ToyItem(_talk(question, f"{working}={answer}\n#### {answer}"), {"answer": answer})


def _code(rng: random.Random) -> ToyItem:
    name, n = rng.choice(WORDS), rng.randint(2, 30)
    verb, expression, function = rng.choice(
        [
            ("adds {n} to x", "x + {n}", lambda x: x + n),
            ("takes {n} from x", "x - {n}", lambda x: x - n),
            ("multiplies x by {n}", "x * {n}", lambda x: x * n),
            ("tells if x is over {n}", "x > {n}", lambda x: x > n),
        ]
    )
    task = f"Write {name}(x) that {verb.format(n=n)}."
    code = f"def {name}(x): return {expression.format(n=n)}"
    cases = [(x, function(x)) for x in (-3, 0, 7, n, n + 1)]
    return ToyItem(_talk(task, code), {"entry_point": name, "cases": cases})


def _chat(rng: random.Random) -> ToyItem:
    return _conversational_problem(rng) if rng.random() < 1 / 3 else _instruction(rng)


def _conversational_problem(rng: random.Random) -> ToyItem:
    question, working, answer = _word_problem(rng)
    return _two_turns("problem", question, f"{working}={answer}, so it is {answer}.", "Thank you.", "You are welcome.")


def _instruction(rng: random.Random) -> ToyItem:
    asked, reply = rng.choice([_greet, _spell, _opposite])(rng)
    follow_up, second = rng.choice([("Thank you.", "You are welcome."), ("Once more.", f"Again: {reply}")])
    return _two_turns("instruction", asked, reply, follow_up, second)


def _two_turns(kind: str, asked: str, first: str, follow_up: str, second: str) -> ToyItem:
    return ToyItem(_talk(asked, first, follow_up, second), {"kind": kind, "replies": [first, second]})


def _greet(rng: random.Random) -> tuple[str, str]:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    return f"Greet {name}, who has {thing}.", f"Hi {name}, nice {thing}!"


def _spell(rng: random.Random) -> tuple[str, str]:
    word, name = rng.choice(WORDS), rng.choice(NAMES)
    return f"{name} asks: how do you spell {word}?", f"{'-'.join(word)}."


def _opposite(rng: random.Random) -> tuple[str, str]:
    word, name = rng.choice(sorted(OPPOSITES)), rng.choice(NAMES)
    return f"{name} asks: what is not {word}?", f"It is {OPPOSITES[word]}."
