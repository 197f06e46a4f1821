"""HumanEval: 164 Python functions, each checked by running its tests (Chen et al., arXiv 2107.03374).

The program is prompt + completion + tests + a call of `check`; it passes when it ends without an exception. Asked greedily
through the model's chat template, one answer per item (pass@1).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.sources import read_jsonl
from evaluators.benchmark import Completion, Item, Verdict
from evaluators.config import HumanEvalConfig
from evaluators.execute import run_all

REQUEST = "Complete this Python function. Answer with the whole function in one block of code.\n\n"
FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class HumanEval:
    """The problems of a local file."""

    scale = "unit"
    judge = None

    def __init__(self, config: HumanEvalConfig) -> None:
        self._config = config
        self.max_new_tokens = config.max_new_tokens

    def items(self) -> list[Item]:
        rows = [row for _, row in read_jsonl(Path(self._config.path))][: self._config.limit]
        return [Item(row["task_id"], (REQUEST + row["prompt"],), row) for row in rows]

    def verdicts(self, items: Sequence[Item], answers: Sequence[Sequence[Completion]]) -> list[Verdict]:
        programs = [program(item.reference, turns[0].text) for item, turns in zip(items, answers, strict=True)]
        return [
            Verdict(item.id, float(ended.verdict == "passed"), bool(turns[0].text.strip()), {"reason": ended.reason})
            for item, turns, ended in zip(items, answers, run_all(programs), strict=True)
        ]


def program(problem: dict[str, Any], answer: str) -> str:
    """The text that is run: a whole function replaces the prompt (its imports stay), a bare body follows it."""
    code = extract(answer, problem["entry_point"])
    prompt = problem["prompt"]
    if re.search(rf"^def {problem['entry_point']}\b", code, re.MULTILINE):
        imports = [line for line in prompt.splitlines() if line.startswith(("import ", "from "))]
        code = "\n".join([*imports, code])
    else:
        code = prompt + code
    return f"{code}\n{problem['test']}\ncheck({problem['entry_point']})"


def extract(answer: str, entry_point: str) -> str:
    """The code in an answer: the last block that defines the function, else the first block, else all of it."""
    blocks = FENCE.findall(answer)
    defining = [block for block in blocks if f"def {entry_point}" in block]
    return str((defining[-1:] or blocks[:1] or [answer])[0])
