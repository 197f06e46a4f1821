"""The loop of a stage: what it computes does not depend on how it is laid out."""

import math
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from stages import apart, on_two_workers

from data import prepare, sources
from data.config import SourceConfig
from data.mixture import Draw
from data.prepare import prepared_key
from data.store import Store
from trainers import base, models
from trainers.batches import collate, layout
from trainers.config import ModelConfig, TrainConfig
from trainers.examples import Examples
from trainers.job import KIND, Share, StageJob
from trainers.loop import train_stage
from trainers.schedule import learning_rate

MODEL = ModelConfig(path="toy")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A stage over 40 word problems and a quarter of 40 conversations."""
    root = str(tmp_path_factory.mktemp("store"))
    store, name, shares = Store(root), base.fingerprint(MODEL), []
    for ability, fraction in (("math", 1.0), ("chat", 0.25)):
        source = SourceConfig(path=f"toy:{ability}", format="messages", role="general", limit=40)
        prepare.prepare(source, name, lambda: base.open_tokenizer(MODEL, store), 128, store)
        found = sources.fingerprint(source)
        shares.append(Share(ability, prepared_key(found, name, 128), found, fraction))
    train = TrainConfig(epochs=2, lr=1e-3, batch_size=16, max_length=128, rows=4)
    return StageJob("base", None, name, tuple(shares), train, MODEL, root, 1, False, 1, time.time())


def trained(job, key, **train):
    """Weights and record of the job under another key and other fields of train."""
    record = train_stage(replace(job, key=key, train=job.train.model_copy(update=train)))
    return load_file(Store(job.store).fetch(KIND, key) / "model.safetensors"), record


@pytest.fixture(scope="module")
def reference(job):
    return trained(job, "reference")


def test_a_stage_is_trained_the_same_twice_to_the_bit(job, reference):
    assert apart(trained(job, "again")[0], reference[0]) == 0


def test_a_stage_changes_the_model_and_says_how_much_it_did(job, reference):
    weights, record = reference
    start = load_file(Store(job.store).fetch(base.KIND, job.base) / "model.safetensors")
    assert apart(start, weights) > 1e-3
    examples = Examples(job, Store(job.store))
    assert len(examples) == record["examples"] == 50
    assert record["steps"] == math.ceil(100 / 16)
    tokens = sum(row["length"] for step in range(record["steps"]) for row in examples.of_step(step))
    assert record["tokens"] == tokens


@pytest.mark.parametrize(
    "layout",
    [{"packing": False}, {"rows": 1}, {"rows": 16}, *({"deepspeed": {"zero": z}} for z in (0, 1, 3))],
    ids=str,
)
def test_the_layout_does_not_change_what_is_learned(job, reference, layout):
    if "deepspeed" in layout:
        layout = {"deepspeed": type(job.train.deepspeed)(**layout["deepspeed"])}
    weights, record = trained(job, f"layout-{layout}".replace("/", ""), **layout)
    assert record["loss"] == pytest.approx(reference[1]["loss"], rel=1e-4)
    assert apart(weights, reference[0]) < 1e-4


def test_two_workers_learn_what_one_learns(job, reference, tmp_path):
    """Under torchrun: the loop needs no Ray."""
    on_two_workers([replace(job, key="two-workers")], tmp_path)
    weights = load_file(Store(job.store).fetch(KIND, "two-workers") / "model.safetensors")
    assert apart(weights, reference[0]) < 1e-4


@pytest.mark.parametrize(
    ("call", "leaks"),
    [({"use_cache": False}, False), ({}, True), ({"use_cache": False, "attention_mask": "ones"}, True)],
    ids=["no cache", "default cache", "mask of ones"],
)
def test_packed_examples_do_not_see_each_other_without_a_cache(job, call, leaks):
    """transformers 5 keeps documents apart by position ids, but only with use_cache=False and no attention mask."""
    model = models.load(base.location(MODEL, Store(job.store)), MODEL).eval()
    rows = Examples(job, Store(job.store)).of_step(0)[:3]
    batch = collate(rows, [[0, 1, 2]], padding=0)
    with torch.inference_mode():
        masked = {"attention_mask": torch.ones_like(batch.input_ids)} if "attention_mask" in call else {}
        packed = model(input_ids=batch.input_ids, position_ids=batch.position_ids, **call | masked).logits[0]
        alone = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows]
    difference = (packed - torch.cat(alone)).abs().max().item()
    assert (difference > 1e-2) if leaks else (difference < 1e-5)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_any_number_of_ranks_sees_the_same_examples_in_every_step_from_any_step_on(job, packing):
    """What each rank computes for itself, from the job alone: the examples of a step, and its share of them."""
    steps = len(Examples(job, Store(job.store)).steps)
    seen = {}
    for ranks in (1, 2, 4):
        of_rank = [Examples(job, Store(job.store)) for _ in range(ranks)]
        for step in reversed(range(steps)):  # none has been through the steps before
            rows = [examples.of_step(step) for examples in of_rank]
            assert all(one == rows[0] for one in rows)
            shares = [layout([row["length"] for row in mine], 128, 2, ranks, packing) for mine in rows]
            taken = [i for rank, passes in enumerate(shares) for share in passes for row in share[rank] for i in row]
            assert sorted(taken) == list(range(len(rows[0])))
            seen.setdefault(step, rows[0])
            assert seen[step] == rows[0]
    assert sum(map(len, seen.values())) == 2 * len(Examples(job, Store(job.store)))


def test_a_stage_with_a_budget_trains_on_it(job):
    """Fractions of a budget: half of 20 word problems, and of 400 tokens of talk."""
    draws = (Draw(budget=20), Draw(budget=400, unit="tokens"))
    shares = tuple(replace(share, fraction=0.5, draw=draw) for share, draw in zip(job.shares, draws, strict=True))
    taken = [Examples(replace(job, shares=(share,)), Store(job.store)) for share in shares]
    problems, talks = ([row["length"] for step in range(len(e.steps)) for row in e.of_step(step)][: len(e)] for e in taken)
    assert len(problems) == 10
    assert abs(sum(talks) - 200) <= max(talks) / 2
    assert len(Examples(replace(job, shares=shares), Store(job.store))) == len(problems) + len(talks)


def test_a_stage_starts_from_its_parent(job, reference):
    child = replace(job, key="child", parent="reference", train=job.train.model_copy(update={"lr": 1e-12}))
    train_stage(child)
    weights = load_file(Store(job.store).fetch(KIND, "child") / "model.safetensors")
    assert apart(weights, reference[0]) < 1e-9


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_falls(schedule):
    train = TrainConfig(lr=1.0, warmup=0.1, schedule=schedule)
    rates = [learning_rate(step, 100, train) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02 or schedule == "constant"


def test_a_folder_with_missing_weights_is_refused_by_name(job, reference, tmp_path):
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(Store(job.store).fetch(KIND, "reference"), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(models.BrokenModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        models.load(str(tmp_path / "model"), MODEL)


def test_weights_that_do_not_fit_are_not_published(job, reference, tmp_path):
    model = models.load(str(Store(job.store).fetch(KIND, "reference")), MODEL)
    weights = {k: v for k, v in model.state_dict().items() if "layers.1" not in k}
    with pytest.raises(models.BrokenModel, match="parameters were written"):
        models.save(model, weights, str(Store(job.store).fetch(KIND, "reference")), MODEL, tmp_path)
