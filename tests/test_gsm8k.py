"""GSM8K: every rule agrees with the harness it comes from, item by item; the dev slice; worked examples."""

import json
import random
import re

import pytest

from evaluators import gsm8k
from evaluators.benchmark import Completion, ItemsUnusable
from evaluators.config import Gsm8kConfig
from evaluators.gsm8k import RULES, Gsm8k, final_number


def said(*texts):
    return [Completion(text, len(text), "stop") for text in texts]


def config(path, **fields):
    return Gsm8kConfig(role="specialist", path=str(path), **fields)


def shapes(gold: str, rng: random.Random) -> list[str]:
    """An answer's number in the many ways that models write it, right and wrong."""
    number = gold.split("#### ")[1]
    bare = number.replace(",", "")
    value = float(bare)
    other = f"{value + rng.choice([1, -1, 10, 0.5]):g}"
    grouped = f"{value:,.0f}"
    return [
        gold,
        f"#### {number}",
        f"#### {number}.",
        f"#### {bare}.0",
        f"#### {bare}.00",
        f"#### {grouped}",
        f"#### ${number}",
        f"#### {number} dollars",
        f"####{number}",
        f"#### -{bare}",
        f"#### {other}",
        f"#### {other}\n#### {number}",
        f"#### {number}\n#### {other}",
        f"#### {number}\nQuestion: what is next? 7",
        f"#### .{bare}",
        f"#### {bare},",
        f"#### ,,{bare}",
        f"#### {bare}.1.2",
        f"#### {value:e}",
        "#### .,.",
        "#### \u0663\u0664",  # Arabic digits
        "#### \uff11\uff12",  # full-width digits
        f"#### {bare}\u00a0",
        f"####  {number}",
        f"The answer is {number}",
        f"The answer is {number}.",
        f"So she earns ${number} in all.",
        f"Total is {bare}...",
        f"**{number}**",
        f"$\\boxed{{{number}}}$",
        f"= {bare} (see step 2)",
        f"{bare}%",
        f"\u2212{bare}",  # a minus sign
        f"-{bare}",
        f"{bare} and {other}",
        f"{other} and {bare}",
        f"{bare}/2",
        f"\u20ac{grouped}.00",
        f"{' '.join(bare)}",
        "I do not know.",
        "",
        "####",
        f"\U0001f986 {number} \U0001f986",
        f"#### {bare}\x00{other}",
        f"#### {bare}\r\n",
        f"<<16-3-4=9>>9 #### {number} ####",
        f"answer: {bare}\n\n\n",
        f"$ {bare} $",
        f"${bare}$",
        f"#### {bare}0000000000000000000000",
    ]


@pytest.fixture(scope="module")
def outputs(benchmarks):
    """For every test question one output, another shape each time, and all shapes for every 60th: (reference, output)."""
    rng = random.Random(0)
    golds = [json.loads(line)["answer"] for line in (benchmarks / "gsm8k" / "test.jsonl").open()]
    made = []
    for i, gold in enumerate(golds):
        every = shapes(gold, rng)
        made += [(gold, text) for text in (every if i % 60 == 0 else [every[i % len(every)]])]
    assert len(made) >= 1319
    return made


@pytest.fixture(scope="module")
def lm_eval_scores(outputs, tmp_path_factory):
    """What lm-eval's own task gives to each output: its filters and its metric, by filter."""
    import lm_eval
    import yaml
    from lm_eval.api.task import ConfigurableTask

    folder = tmp_path_factory.mktemp("lm-eval")
    lines = [{"question": f"question {i}?", "answer": gold} for i, (gold, _) in enumerate(outputs)]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = yaml.safe_load((lm_eval.__path__[0] and open(f"{lm_eval.__path__[0]}/tasks/gsm8k/gsm8k.yaml")).read())
    assert values["metadata"]["version"] == 3.0
    for name in ("tag", "dataset_name", "training_split", "fewshot_split"):
        values.pop(name)
    files = {"test": str(folder / "test.jsonl")}
    task = ConfigurableTask(config=values | {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "num_fewshot": 0})
    docs = list(task.test_docs())
    assert len(docs) == len(outputs)
    scores = {}
    for ensemble in task._filters:
        resps = [[text] for _, text in outputs]
        for one in ensemble.filters:
            resps = one().apply(resps, docs)
        found = [task.process_results(doc, [resp])["exact_match"] for doc, resp in zip(docs, resps, strict=True)]
        scores[ensemble.name] = [float(score) for score in found]
    return scores


@pytest.mark.benchmarks
@pytest.mark.parametrize(("rule", "filtered"), [("lmeval_strict", "strict-match"), ("lmeval_flexible", "flexible-extract")])
def test_rules_agree_with_lm_eval_on_every_output(outputs, lm_eval_scores, rule, filtered):
    ours = [float(RULES[rule](text, gold)) for gold, text in outputs]
    apart = [
        (gold[-20:], text, mine, theirs)
        for (gold, text), mine, theirs in zip(outputs, ours, lm_eval_scores[filtered], strict=True)
        if mine != theirs
    ]
    assert apart == []
    assert 0.2 < sum(ours) / len(ours) < 0.8


def official(text):
    """`extract_answer` of openai/grade-school-math, dataset.py, in its own words."""
    match = re.compile(r"#### (\-?[0-9\.\,]+)").search(text)
    if match:
        match_str = match.group(1).strip()
        return match_str.replace(",", "")
    return "[invalid]"


def screl(text, gold):
    """gsm8k-ScRel's rule: the same pattern, cut at NUL, commas dropped, a number, and within 1e-4 of the right one."""
    found = re.search(r"#### (\-?[0-9\.\,]+)", text)
    number = found.group(1).split("\x00")[0].replace(",", "") if found else ""
    try:
        return abs(float(number) - float(official(gold))) < 1e-4
    except ValueError:
        return False


@pytest.mark.benchmarks
def test_rules_agree_with_openai_and_screl_on_every_output(outputs):
    for gold, text in outputs:
        right = official(text)
        assert RULES["openai"](text, gold) == (right != "[invalid]" and right == official(gold)), text
        assert RULES["strict"](text, gold) == screl(text, gold), text


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("#### 18", "strict openai lmeval_strict lmeval_flexible"), ("#### 18.", "strict lmeval_strict lmeval_flexible"),
        ("#### $18", "lmeval_flexible"), ("**18**", "lmeval_flexible"), ("\\boxed{18}", "lmeval_flexible"),
        ("#### 18.00", "strict"), ("#### 18\nQuestion: next 7", "strict openai lmeval_strict"), ("$18.00", ""), ("18...", ""),
        ("#### 18 #### 7", "strict openai lmeval_strict"),
        ("#### 1,8", "strict openai lmeval_strict lmeval_flexible"), ("", ""),
    ],
)  # fmt: skip
def test_the_rules_differ_where_they_are_known_to(text, right):
    assert {name for name, rule in RULES.items() if rule(text, "so\n#### 18")} == set(right.split())


def test_the_config_names_the_rule_that_counts_and_all_are_reported(tmp_path):
    path = write(tmp_path / "q.jsonl", [("q", "#### 18")])
    for rule, score in (("strict", 1), ("openai", 0), ("lmeval_strict", 0), ("lmeval_flexible", 0)):
        test = Gsm8k(config(path, split="test", scoring=rule))
        [verdict] = test.verdicts(test.items(), [said("#### 18.00")])
        assert verdict.score == score
        assert verdict.answered
        extras = test.extras([verdict])
        assert extras["scoring"] == rule
        assert [extras[name] for name in RULES] == [1, 0, 0, 0]
    assert not Gsm8k(config(path, split="test")).verdicts(test.items(), [said("eighteen")])[0].answered


def write(path, pairs):
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs))
    return path


def numbered(count, start=0):
    return [(f"How many are {i}?", f"{i}\n#### {i}") for i in range(start, start + count)]


def test_the_dev_slice_does_not_depend_on_the_order_of_the_file_or_on_the_limit(tmp_path):
    pairs = numbered(60)
    one = Gsm8k(config(write(tmp_path / "a.jsonl", pairs), dev_questions=20))
    other = Gsm8k(config(write(tmp_path / "b.jsonl", pairs[::-1] + pairs), dev_questions=20))
    assert one.items() == other.items()
    assert len(one.items()) == 20
    assert {item.turns[0] for item in one.items()} != {q for q, _ in pairs[:20]}
    short = Gsm8k(config(tmp_path / "a.jsonl", dev_questions=20, limit=5))
    assert short.items() == one.items()[:5]
    assert short.held_out() == one.held_out() == [item.turns[0] for item in one.items()]


def test_a_question_is_the_same_whatever_its_case_spacing_and_punctuation():
    keys = {gsm8k.key({"question": text}) for text in ("How many,  pens?", "how many pens", "HOW MANY\npens?!")}
    assert len(keys) == 1
    assert gsm8k.key({"question": "How many pins?"}) not in keys


def test_a_test_set_holds_nothing_out_and_keeps_the_order_of_its_file(tmp_path):
    test = Gsm8k(config(write(tmp_path / "q.jsonl", numbered(9)), split="test", limit=4))
    assert [item.turns[0] for item in test.items()] == [q for q, _ in numbered(4)]
    assert test.held_out() == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"path": "x/test.jsonl"}, "give the training file, or write split: test"),
        ({"path": "x/t.jsonl", "split": "test", "shots": 2}, "split test with shots needs shots_path"),
        ({"path": "x/t.jsonl", "scoring": "lenient"}, "strict"),
    ],
)
def test_configs_that_would_mislead_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Gsm8kConfig(role="specialist", **fields)


def test_files_that_cannot_be_meant_are_refused(tmp_path):
    path = write(tmp_path / "q.jsonl", numbered(20))
    with pytest.raises(ItemsUnusable, match=r"dev_questions = 500: .* has 20 different questions, .* lower it"):
        Gsm8k(config(path)).items()
    with pytest.raises(ItemsUnusable, match=r"shots = 30: .*lower it"):
        Gsm8k(config(path, dev_questions=2, shots=30)).items()
    with pytest.raises(ItemsUnusable, match="no number behind '#### '"):
        Gsm8k(config(write(tmp_path / "bad.jsonl", [("q", "18")]), split="test")).items()


def test_worked_examples_are_seeded_and_never_questions_that_are_asked(tmp_path):
    path = write(tmp_path / "q.jsonl", numbered(40))
    test = Gsm8k(config(path, dev_questions=20, shots=8))
    items = test.items()
    assert len({item.shots for item in items}) == 1
    assert len(set(items[0].shots)) == 8
    assert set(items[0].shots) <= set(numbered(40))
    assert not {asked for asked, _ in items[0].shots} & {item.turns[0] for item in items}
    assert Gsm8k(config(path, dev_questions=20, shots=8, shots_seed=1)).items()[0].shots != items[0].shots
    more = write(tmp_path / "train.jsonl", numbered(40) + numbered(10, start=100))
    asked = Gsm8k(config(path, split="test", shots=10, shots_path=str(more))).items()
    assert {asked for asked, _ in asked[0].shots} == {q for q, _ in numbered(10, start=100)}


def test_items_come_from_the_hub_by_id_and_split(tmp_path, monkeypatch):
    import datasets

    from evaluators import evaluate
    from evaluators.config import EvaluateConfig

    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return datasets.Dataset.from_list([{"question": q, "answer": a} for q, a in numbered(30)])

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["main", "socratic"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(Gsm8k(config("openai/gsm8k", split="test")).items()) == 30
    assert len(Gsm8k(config("openai/gsm8k", dev_questions=7, shots=2)).items()) == 7
    assert asked == [("openai/gsm8k", "main", "test"), *[("openai/gsm8k", "main", "train")] * 2]
    named = evaluate.identities(EvaluateConfig(gsm8k=config("openai/gsm8k")))["gsm8k"]
    assert len(asked) == 3  # a name needs no network
    assert named.count is None


@pytest.mark.benchmarks
def test_the_dev_slice_of_the_real_training_set(benchmarks):
    test = Gsm8k(config(benchmarks / "gsm8k" / "train.jsonl"))
    items = test.items()
    assert len({item.id for item in items}) == len(items) == len(test.held_out()) == 500
    verdicts = test.verdicts(items, [said(item.reference) for item in items])
    assert test.extras(verdicts) == {"split": "dev", "scoring": "strict", **dict.fromkeys(RULES, 1.0)}
    assert all(final_number(item.reference) is not None for item in items)
