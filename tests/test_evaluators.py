"""Evaluators: completions in, verdicts out; generation that does not depend on the batch."""

import json
import math

import pytest

from data.checkpoints import Checkpoint
from data.store import Store
from data.toy import problems
from evaluators import entries, evaluate, statistics
from evaluators.benchmark import Completion, EvaluationFailed, Item, Sampling, Verdict
from evaluators.config import EvaluateConfig, Gsm8kConfig, MtBenchConfig, ToyConfig
from evaluators.execute import run_unsandboxed
from evaluators.generation.interface import answer
from evaluators.generation.local import Transformers
from evaluators.gsm8k import Gsm8k, final_number
from evaluators.mt_bench import MtBench, offline_rating
from evaluators.toy import ToyChat, ToyCode, ToyMath
from trainers import base
from trainers.config import ModelConfig


def said(*texts, finish="stop"):
    return [Completion(text, len(text), finish) for text in texts]


def gold(ability, count):
    made = problems.items(ability, "dev", count)
    return [[m["content"] for m in item.messages if m["role"] == "assistant"] for item in made]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so #### 18", 18), ("#### 1,234", 1234), ("#### -3", -3), ("#### 18. Done #### 7", 18),
        ("#### 18.00", 18), ("#### $18", None), ("18", None), ("#### .,.", None), ("", None),
    ],
)  # fmt: skip
def test_the_number_behind_the_first_marks(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(("benchmark", "ability", "best"), [(ToyMath, "math", 1), (ToyCode, "code", 1)])
def test_the_right_answers_score_full_and_others_nothing(benchmark, ability, best):
    toy = benchmark(ToyConfig(role="specialist", limit=10))
    right = [said(*replies) for replies in gold(ability, 10)]
    wrong = [said("That makes 8."), *right[:0]] * 10
    assert [v.score for v in toy.verdicts(toy.items(), right)] == [best] * 10
    assert [v.score for v in toy.verdicts(toy.items(), wrong)] == [0] * 10


def test_half_of_the_conversations_are_problems_and_the_rubric_spans_1_to_10():
    toy = ToyChat(ToyConfig(role="general", limit=20))
    items = toy.items()
    assert [item.category for item in items].count("problem") == 10
    best = toy.verdicts(items, [said(*item.reference["replies"]) for item in items])
    assert {verdict.score for verdict in best} == {10}
    assert {verdict.score for verdict in toy.verdicts(items, [said("", "")] * 20)} == {1}
    specialist = [said(f"3+5=8\n#### {8}", "You are welcome.") for _ in items]
    assert all(v.score < 10 for v in toy.verdicts(items, specialist))


def test_splits_of_the_toy_world_share_no_prompt():
    for ability in problems.ABILITIES:
        prompts = [{item.prompt for item in problems.items(ability, split, 300)} for split in problems.SPLITS]
        assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])


def test_the_toy_world_depends_on_the_seed_alone_and_longer_lists_go_on():
    one, other = problems.items("chat", "train", 50), problems.items("chat", "train", 80)
    assert other[:50] == one
    assert problems.items("chat", "train", 50, seed=1) != one
    with pytest.raises(ValueError, match="toy:maths"):
        problems.items("maths", "train", 1)


def test_a_score_is_a_mean_with_its_error_and_nothing_is_no_score():
    verdicts = [Verdict(str(i), float(i < 3), answered=i != 9) for i in range(10)]
    found = statistics.score(verdicts, [said("a", finish="length")] + [said("a")] * 9)
    assert (found.n, found.value, found.no_answer_rate, found.truncated_rate) == (10, 0.3, 0.1, 0.1)
    assert found.stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 9))
    with pytest.raises(EvaluationFailed):
        statistics.score([], [])


def test_scores_on_ten_enter_an_objective_on_one():
    assert [statistics.unit(s, "ten") for s in (1, 5.5, 10)] == [0, 0.5, 1]
    assert statistics.unit(0.3, "unit") == 0.3
    assert statistics.unit_error(0.9, "ten") == pytest.approx(0.1)


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    return base.location(ModelConfig(path="toy", seed=3), Store(str(tmp_path_factory.mktemp("store"))))


def test_the_toy_model_has_about_150k_parameters(toy_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(toy_model)
    assert 130_000 < sum(p.numel() for p in model.parameters()) < 170_000


def answered(folder, size, items, max_new_tokens, sampling=Sampling()):  # noqa: B008
    """The answers of a model folder, in batches of `size`."""
    engine = Transformers(size)
    engine.open(Checkpoint(folder, folder))
    return answer(engine, items, max_new_tokens, sampling)


def test_answers_do_not_depend_on_the_batch(toy_model):
    items = [Item(str(i), ("x" * n, "and?")[: 1 + n % 2]) for i, n in enumerate((1, 30, 7, 64, 2))]
    together, alone = answered(toy_model, 5, items, 12), answered(toy_model, 1, items, 12)
    assert together == alone
    assert [len(turns) for turns in together] == [2, 1, 2, 1, 1]


def test_the_second_turn_sees_the_first_answer(toy_model):
    [[first, second]] = answered(toy_model, 4, [Item("0", ("Hi", "More"))], 8)
    [[again]] = answered(toy_model, 4, [Item("0", ("More",), shots=(("Hi", first.text),))], 8)
    assert again == second


def test_evaluation_writes_every_item_with_prompt_answer_and_verdict(toy_model, tmp_path):
    config = EvaluateConfig(toy_math=ToyConfig(role="specialist", limit=3, max_new_tokens=5))
    store = Store(str(tmp_path))
    record = entries.evaluate_here(Checkpoint(toy_model, toy_model), "it", config, store)["toy_math"]
    lines = [json.loads(line) for line in (store.fetch("evaluations", record["key"]) / "toy_math.jsonl").open()]
    assert record["scores"]["toy_math"]["n"] == len(lines) == 3
    assert lines[0].keys() >= {"id", "turns", "answers", "score", "answered"}
    assert all(len(line["answers"]) == 1 for line in lines)


def test_the_key_of_an_evaluation_leaves_out_weights_and_roles():
    def name(**fields):
        config = EvaluateConfig(toy_math=ToyConfig(role="specialist", limit=3).model_copy(update=fields))
        return evaluate.identities(config)["toy_math"].evaluation("a checkpoint")

    assert name(weight=2.0) == name(role="general") == name()
    assert len({name(), name(limit=4), name(split="test"), name(max_new_tokens=9)}) == 4


def test_unsandboxed_programs_pass_fail_or_run_out_of_time():
    assert run_unsandboxed("x = 1").verdict == "passed"
    assert run_unsandboxed("assert False, 'no'").reason == "AssertionError: no"
    assert run_unsandboxed("import os; os.environ['HOME']").verdict == "failed"
    assert run_unsandboxed("while True: pass").verdict in ("failed", "timeout")
    assert run_unsandboxed("x = bytearray(10**10)").reason == "MemoryError"
    assert run_unsandboxed("\0").verdict == "failed"


@pytest.mark.benchmarks
def test_reference_answers_of_gsm8k_are_right(benchmarks):
    test = Gsm8k(Gsm8kConfig(role="specialist", path=str(benchmarks / "gsm8k/test.jsonl"), split="test"))
    items = test.items()
    answers = [said(item.reference) for item in items]
    assert len(items) == 1319
    assert all(verdict.score == 1 for verdict in test.verdicts(items, answers))


@pytest.mark.benchmarks
def test_mt_bench_has_80_questions_of_two_turns_and_names_its_judge(benchmarks):
    test = MtBench(MtBenchConfig(role="general", path=str(benchmarks / "mt_bench/question.jsonl")))
    items = test.items()
    assert (len(items), {len(item.turns) for item in items}, test.judge) == (80, {2}, "offline-rules")
    verdicts = test.verdicts(items, [said("", "A fine answer.")] * 80)
    assert all(1 <= verdict.score <= 10 for verdict in verdicts)


def test_the_offline_rating_stays_between_1_and_10():
    assert offline_rating("") == 1
    assert offline_rating(" ".join(f"word{i}" for i in range(60)) + ".") == 10


def test_nothing_that_an_unsandboxed_program_started_lives_on():
    import subprocess

    mark = "7219.0371"
    run_unsandboxed(f"import subprocess; subprocess.Popen(['sleep', '{mark}'])")
    assert mark not in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout


def test_an_answer_that_leaves_no_room_for_its_question_is_refused(toy_model):
    with pytest.raises(EvaluationFailed, match="leaves no room in the model's 512 positions"):
        answered(toy_model, 1, [Item("0", ("Hi",))], 512)
