"""`fulcrum train`: one recipe from a configuration, on the toy world and on the real files; and a sweep of adapters."""

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT, fulcrum
from data import checkpoints
from data.store import Store
from run_folders import finished_stages, table

STRATEGIES = ("multi_task", "sequential", "mixed_sequential", "dmt")


def opened(work, name):
    """The model that `fulcrum train` left, with transformers and peft alone."""
    folder = work / "runs" / name / "model"
    found = checkpoints.in_folder(folder, Store(str(work / "runs" / "store")))
    model, told = AutoModelForCausalLM.from_pretrained(found.model, output_loading_info=True)
    assert not any(told.values())
    AutoTokenizer.from_pretrained(found.folder).apply_chat_template([{"role": "user", "content": "Hello"}])
    return PeftModel.from_pretrained(model, found.adapter) if found.adapter else model


def train(work, values):
    (work / "recipe.yaml").write_text(yaml.safe_dump(values))
    ended = fulcrum("train", "recipe.yaml", cwd=work)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return finished_stages(work / "runs" / values["name"])


def test_a_recipe_trains_one_adapter_through_its_stages(tmp_path, small):
    small |= {"search": {}, "k": 0.5}
    small["train"]["lora"] = {"rank": 4}
    first, second = train(tmp_path, small)
    model = opened(tmp_path, "small")
    with model.disable_adapter(), torch.inference_mode():
        plain = model(input_ids=torch.arange(1, 9)[None]).logits
    assert (model(input_ids=torch.arange(1, 9)[None]).logits - plain).abs().max() > 1e-3
    assert second["parent"] == first["key"]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_trains_adapters_of_searched_ranks_and_evaluates_them_on_their_base(tmp_path, small):
    small["train"]["lora"] = {"rank": 2}
    small["search"]["space"] = {"train.lora.rank": {"type": "grid", "values": [2, 8]}}
    small |= {"k": 0.5}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    folder = tmp_path / "runs" / "small"
    assert [(row["state"], row["train.lora.rank"]) for row in table(folder)] == [("complete", "2"), ("complete", "8")]
    assert len(finished_stages(folder)) == 4  # another rank is another first stage
    store = Store(str(tmp_path / "runs" / "store"))
    adapters = {checkpoints.in_store(store, "stages", stage["key"]).adapter is not None for stage in finished_stages(folder)}
    assert adapters == {True}


@pytest.mark.slow
@pytest.mark.benchmarks
@pytest.mark.parametrize(
    "lora", [None, {"rank": 8}, {"rank": 8, "dora": True, "parent": "merge"}], ids=["full", "lora", "dora"]
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_on_the_real_files(tmp_path, benchmarks, monkeypatch, strategy, lora):
    """The shipped configuration smoke: a LLaMA of 1M parameters, every format, two sources of each role or more."""
    monkeypatch.setenv("FULCRUM_BENCHMARKS", str(benchmarks))
    values = yaml.safe_load((ROOT / "sweeps" / "configs" / "smoke.yaml").read_text())
    values |= {"strategy": strategy, "search": {}, "k": 0.25 if strategy == "dmt" else None, "resources": {"workers": 0}}
    values["train"] |= {"lora": lora}
    for source in values["sources"].values() if lora else ():
        source["limit"] = 500  # every row goes through full fine-tuning
    stages = train(tmp_path, values)
    assert len(stages) == {"multi_task": 1, "sequential": 3}.get(strategy, 2)
    assert all(stage["tokens"] > 1000 for stage in stages)
    opened(tmp_path, "smoke")
