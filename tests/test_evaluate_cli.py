"""`fulcrum evaluate`: any Hugging Face folder, without a sweep; what the store holds is not made again."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from conftest import ROOT, fulcrum
from data.checkpoints import name_base
from data.store import Store
from evaluators.entries import EVALUATIONS, GENERATIONS
from trainers import base
from trainers.config import ModelConfig

EVALUATE = {
    "toy_math": {"role": "specialist", "limit": 6, "max_new_tokens": 8},
    "toy_chat": {"role": "general", "limit": 6, "max_new_tokens": 8},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return base.location(ModelConfig(path="toy", seed=5), Store(str(tmp_path_factory.mktemp("models"))))


@pytest.fixture
def work(tmp_path):
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"evaluate": EVALUATE}))
    return tmp_path


def entries(work):
    store = Store(str(work / "runs" / "store"))
    return len(store.records(GENERATIONS)), len(store.records(EVALUATIONS))


def test_a_folder_is_evaluated_once_and_by_each_benchmark_alone(model, work):
    ended = fulcrum("evaluate", model, "e.yaml", "--out", "o", cwd=work)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((work / "o" / "results.json").read_text())
    assert set(results["scores"]) == {"toy_math", "toy_chat"}
    assert all({"n", "stderr", "no_answer_rate", "truncated_rate"} <= score.keys() for score in results["scores"].values())
    lines = [json.loads(line) for line in (work / "o" / "toy_chat.jsonl").open()]
    assert len(lines) == 6
    assert all(len(line["answers"]) == len(line["turns"]) == 2 for line in lines)
    assert "toy_math   6" in ended.stdout
    assert entries(work) == (2, 2)
    again = fulcrum("evaluate", model, "e.yaml", "--out", "p", "evaluate.toy_math.weight=3", cwd=work)
    assert "toy_math: from the store" in again.stdout
    assert "toy_chat: from the store" in again.stdout
    assert json.loads((work / "p" / "results.json").read_text())["scores"] == results["scores"]
    more = fulcrum("evaluate", model, "e.yaml", "evaluate.toy_code={role: specialist, limit: 2, max_new_tokens: 4}", cwd=work)
    assert more.returncode == 0, more.stdout + more.stderr
    assert entries(work) == (3, 3)


@pytest.mark.benchmarks
def test_another_rule_scores_again_and_generates_nothing(model, work, benchmarks):
    path = str(benchmarks / "gsm8k" / "test.jsonl")
    gsm8k = {"role": "specialist", "path": path, "split": "test", "limit": 3, "max_new_tokens": 4}
    (work / "e.yaml").write_text(yaml.safe_dump({"evaluate": {"gsm8k": gsm8k}}))
    assert fulcrum("evaluate", model, "e.yaml", cwd=work).returncode == 0
    assert fulcrum("evaluate", model, "e.yaml", "evaluate.gsm8k.scoring=openai", cwd=work).returncode == 0
    assert entries(work) == (1, 2)


def test_a_stage_of_a_sweep_is_not_evaluated_again(finished):
    folder, _ = finished
    store = Store(str(folder.parent / "store"))
    record = next(r for r in store.records(EVALUATIONS) if r["benchmark"] == "toy_math")
    stage = store.fetch("stages", record["stage"])
    ended = fulcrum("evaluate", str(stage), "small.yaml", "--out", "evaluated", cwd=folder.parents[1])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("from the store") == 2
    scores = json.loads((folder.parents[1] / "evaluated" / "results.json").read_text())["scores"]
    assert scores["toy_math"] == record["scores"]["toy_math"]


def test_an_adapter_folder_is_evaluated_on_its_base(model, work):
    from test_generate import adapter

    adapter(model, work / "adapter", 0.5)
    ended = fulcrum("evaluate", "adapter", "e.yaml", cwd=work)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    fulcrum("evaluate", model, "e.yaml", "--out", "base", cwd=work)
    said = [[line["answers"] for line in map(json.loads, (work / folder / "toy_math.jsonl").open())]
            for folder in ("evaluated/adapter", "base")]  # fmt: skip
    assert said[0] != said[1]
    name_base(work / "adapter", {"kind": "stages", "key": "0" * 32})
    ended = fulcrum("evaluate", "adapter", "e.yaml", cwd=work)
    assert ended.returncode == 2
    assert "set storage to that of its run" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "e.yaml"], "MODEL_DIR = 'nowhere': no Hugging Face model or adapter in this folder"),
        (["MODEL", "none.yaml"], "CONFIG = 'none.yaml': no such file"),
        (["MODEL", "e.yaml", "evaluate.toy_math.limits=3"], "evaluate.toy_math.limits = 3: no such field; write limit"),
        (["MODEL", "e.yaml", "evaluate.mt_bench={path: gone.jsonl, role: general}"], "evaluate.mt_bench.path = 'gone.jsonl'"),
        (["MODEL", "e.yaml", "evaluate={}"], "evaluate is missing: name at least one benchmark"),
        (["MODEL", "e.yaml", "evaluate.engine={kind: openai, base_url: 'http://a:b@c/v1', model: m}"], "engine.base_url"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what_is_wrong(model, work, arguments, told):
    ended = fulcrum("evaluate", *[model if a == "MODEL" else a for a in arguments], cwd=work)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert told in ended.stderr
    assert not (work / "runs").exists()


def test_ray_is_not_needed(model, work):
    code = f"import runpy, sys; sys.modules['ray'] = None; sys.argv = ['', 'evaluate', {model!r}, 'e.yaml']; "
    code += "runpy.run_module('sweeps', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
