"""GSM8K: grade-school word problems (Cobbe et al., arXiv 2110.14168).

Asked through the model's chat template, zero-shot or after worked examples. Four rules score an answer (`RULES`); the config
names the one that counts. A sweep is steered on `dev`, a slice of the training set that no training source keeps, so that the
test set stays unseen until the chosen point is confirmed on it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from data.mixture import generator
from evaluators.benchmark import Benchmark, Completion, Item, ItemsUnusable, Verdict
from evaluators.config import Gsm8kConfig
from evaluators.items import rows

FIELDS = {"question": str, "answer": str}
MARKED = re.compile(r"#### (-?[0-9.,]+)")
LOOSE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
WORD = re.compile(r"\w+")
INVALID = "[invalid]"
STRICT_WITHIN = 1e-4


class Gsm8k(Benchmark):
    """The dev slice of a training file, or all questions of a test file."""

    def __init__(self, config: Gsm8kConfig) -> None:
        self._config = config
        self.max_new_tokens = config.max_new_tokens

    def items(self) -> list[Item]:
        asked = self._asked()
        shots = self._shots({key(row) for row in asked})
        named = [(key(row) if self._config.split == "dev" else str(i), row) for i, row in enumerate(asked)]
        return [self._item(name, row, shots) for name, row in named[: self._config.limit]]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        return [self._verdict(item, turns[0].text) for item, turns in zip(items, answers, strict=True)]

    def extras(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """What each of the rules gives, and which one counts."""
        rates = {rule: fmean(verdict.detail["rules"][rule] for verdict in verdicts) for rule in RULES}
        return {"split": self._config.split, "scoring": self._config.scoring, **rates}

    def held_out(self) -> list[str]:
        """Questions that no training source may hold: the whole dev slice; none with split test, as in the paper."""
        return [row["question"] for row in self._asked()] if self._config.split == "dev" else []

    def _asked(self) -> list[dict[str, Any]]:
        config = self._config
        if config.split == "test":
            return rows(config.path, None, FIELDS, "test")
        return dev_slice(rows(config.path, None, FIELDS, "train"), config)

    def _shots(self, asked: set[str]) -> tuple[tuple[str, str], ...]:
        """Worked examples from the training set, drawn by the seed; none is a question that is asked."""
        count, path = self._config.shots, self._config.shots_path or self._config.path
        if not count:
            return ()
        found = {key(row): row for row in _sorted(rows(path, None, FIELDS, "train"))}
        names = sorted(found.keys() - asked)
        if len(names) < count:
            raise ItemsUnusable(f"evaluate.gsm8k.shots = {count}: {path} has {len(names)} examples for it; lower it")
        drawn = generator("shots", self._config.shots_seed).permutation(len(names))[:count]
        return tuple((found[names[i]]["question"], found[names[i]]["answer"]) for i in drawn)

    def _item(self, name: str, row: dict[str, Any], shots: tuple[tuple[str, str], ...]) -> Item:
        if final_number(row["answer"]) is None:
            raise ItemsUnusable(f"{self._config.path}: no number behind '#### ' in the answer to {row['question']!r:.80}")
        return Item(name, (row["question"],), row["answer"], shots=shots)

    def _verdict(self, item: Item, text: str) -> Verdict:
        rules = {name: rule(text, item.reference) for name, rule in RULES.items()}
        found = READ[self._config.scoring](text)
        detail = {"rules": rules, "found": found, "reference": final_number(item.reference)}
        return Verdict(item.id, float(rules[self._config.scoring]), found != INVALID, detail)


def key(row: Mapping[str, Any]) -> str:
    """Names a question by its words, whatever its case, spacing and punctuation."""
    text = " ".join(WORD.findall(row["question"].lower()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dev_slice(found: Sequence[dict[str, Any]], config: Gsm8kConfig) -> list[dict[str, Any]]:
    """The rows whose questions have the smallest hashes, in that order: the order of the file does not matter."""
    different = {key(row): row for row in _sorted(found)}
    if len(different) <= config.dev_questions:
        raise ItemsUnusable(
            f"evaluate.gsm8k.dev_questions = {config.dev_questions}: {config.path} has {len(different)} different questions, "
            "and some must be left to train on; lower it, or give the training file"
        )
    return [different[name] for name in sorted(different)[: config.dev_questions]]


def _sorted(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By their answers, so that of two rows with one question the same one is kept whatever the order of the file."""
    return sorted(found, key=lambda row: (row["answer"], row["question"]))


def final_number(text: str) -> float | None:
    """The number behind the first `#### `, None where there is none that can be read."""
    found = MARKED.search(text)
    try:
        return float(found.group(1).replace(",", "")) if found else None
    except ValueError:
        return None


def strict(text: str, gold: str) -> bool:
    """The number behind the first `#### `, within 1e-4: gsm8k-ScRel, whose data the paper trains on."""
    number, right = final_number(text), final_number(gold)
    return number is not None and right is not None and abs(number - right) < STRICT_WITHIN


def openai(text: str, gold: str) -> bool:
    """The text behind the first `#### `, commas dropped, letter by letter: openai/grade-school-math."""
    said = marked(text).replace(",", "")
    return said != INVALID and said == marked(gold).replace(",", "")


def lmeval_strict(text: str, gold: str) -> bool:
    """lm-evaluation-harness, task gsm8k version 3, filter strict-match."""
    return _normal(marked(text)) == _normal(gold)


def lmeval_flexible(text: str, gold: str) -> bool:
    """lm-evaluation-harness, task gsm8k version 3, filter flexible-extract."""
    return _normal(last_number(text)) == _normal(gold)


def marked(text: str) -> str:
    """What stands behind the first `#### `."""
    found = MARKED.search(text)
    return found.group(1).strip() if found else INVALID


def last_number(text: str) -> str:
    """The last thing that looks like a number, wherever it stands."""
    found = LOOSE.findall(text)
    return next(group for group in found[-1] if group).strip() if found else INVALID


def _strictly(text: str) -> str:
    return INVALID if final_number(text) is None else marked(text)


def _normal(text: str) -> str:
    """lm-eval's normalisation, in its order: of what was said and of the whole reference alike."""
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(pattern, "", text)
    return text.lower()


RULES: dict[str, Callable[[str, str], bool]] = {
    "strict": strict,
    "openai": openai,
    "lmeval_strict": lmeval_strict,
    "lmeval_flexible": lmeval_flexible,
}
READ: dict[str, Callable[[str], str]] = {
    "strict": _strictly,
    "openai": marked,
    "lmeval_strict": marked,
    "lmeval_flexible": last_number,
}
"""What each rule reads out of an answer; INVALID counts as no answer."""
