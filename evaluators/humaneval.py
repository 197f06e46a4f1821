"""HumanEval: 164 Python functions, each checked by running its tests (Chen et al., arXiv 2107.03374).

The program is prompt + completion + tests + a call of `check`; it passes when it comes to its end. pass@k is the paper's
unbiased estimate from n samples, 1 - C(n-c, k) / C(n, k), averaged over the items. By default one greedy answer per item.
"""

import ast
import re
from collections.abc import Sequence
from math import prod
from statistics import fmean
from typing import Any

from evaluators.benchmark import Benchmark, Completion, Item, Sampling, Verdict
from evaluators.config import HumanEvalConfig
from evaluators.execute import confinement, execute
from evaluators.items import rows

REQUEST = "Complete this Python function. Answer with the whole function in one block of code.\n\n"
FENCE = re.compile(r"```(?:[a-zA-Z0-9+_-]*)[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a continuation of the prompt ends: the stop words of the paper."""


class HumanEval(Benchmark):
    """The problems of a local file, asked in conversation or continued as text."""

    def __init__(self, config: HumanEvalConfig, unsandboxed: bool = False) -> None:
        self._config = config
        self._unsandboxed = unsandboxed
        self.max_new_tokens = config.max_new_tokens
        self.sampling = Sampling(config.temperature, config.top_p, config.seed)

    def items(self) -> list[Item]:
        fields = dict.fromkeys(("task_id", "prompt", "entry_point", "test"), str)
        found = rows(self._config.path, self._config.limit, fields)
        return [self._item(row, sample) for row in found for sample in range(self._config.samples)]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        made = [program(item.reference, turns[0].text, item.raw) for item, turns in zip(items, answers, strict=True)]
        ended = execute([text for text, _ in made], self._unsandboxed)
        return [
            Verdict(
                item.id,
                float(end.verdict == "passed"),
                bool(turns[0].text.strip()),
                end.detail | {"route": route, "syntax_error": not _parses(text)},
                item.group,
            )
            for item, turns, (text, route), end in zip(items, answers, made, ended, strict=True)
        ]

    def extras(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """pass@k, the routes by which code was found, and the rates of syntax errors and of suspicious programs."""
        routes = [verdict.detail["route"] for verdict in verdicts]
        return {
            **{f"pass@{k}": self._pass_at(k, verdicts) for k in self._config.k},
            "syntax_error_rate": fmean(verdict.detail["syntax_error"] for verdict in verdicts),
            "suspicious": sum(bool(verdict.detail["suspicious"]) for verdict in verdicts),
            "routes": {route: routes.count(route) for route in sorted(set(routes))},
            **confinement(self._unsandboxed),
        }

    def _item(self, row: dict[str, Any], sample: int) -> Item:
        name, raw = str(row["task_id"]), self._config.prompting == "completion"
        asked = row["prompt"] if raw else REQUEST + row["prompt"]
        return Item(f"{name}#{sample}", (asked,), row, group=name, raw=raw, stops=STOPS if raw else ())

    def _pass_at(self, k: int, verdicts: Sequence[Verdict]) -> float:
        passed: dict[str, list[bool]] = {}
        for verdict in verdicts:
            passed.setdefault(verdict.group, []).append(verdict.score == 1)
        return fmean(pass_at_k(len(samples), sum(samples), k) for samples in passed.values())


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k samples passes, from n samples of which c passed; unbiased. Raises ValueError for k > n."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"{n=} {c=} {k=}: needs 0 <= c <= n and 1 <= k <= n")
    return 1.0 if n - c < k else 1.0 - prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def program(problem: dict[str, Any], answer: str, raw: bool = False) -> tuple[str, str]:
    """The text that is run, and the route by which its code was found.

    A whole function follows the prompt too, whose imports and helpers it may use: the prompt is valid Python by itself.
    A bare body continues the prompt with its indentation as it is.
    """
    code, route = (answer, "continuation") if raw else extract(answer, problem["entry_point"])
    whole = re.search(rf"^(async )?def {problem['entry_point']}\b", code, re.MULTILINE)
    text = problem["prompt"] + ("\n" if whole else "") + code
    return f"{text}\n{problem['test']}\ncheck({problem['entry_point']})", route


def extract(answer: str, entry_point: str) -> tuple[str, str]:
    """The code in an answer: the last block that defines the function, else the first block, else all of it."""
    blocks = FENCE.findall(answer)
    defining = [block for block in blocks if re.search(rf"def {entry_point}\b", block)]
    if defining:
        return str(defining[-1]), "block with the function"
    return (str(blocks[0]), "first block") if blocks else (answer, "whole answer")


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
