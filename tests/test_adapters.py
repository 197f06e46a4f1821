"""Adapters: trained alike however they are laid out, continued or merged, and published so that peft alone can open them."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import alone, apart, on_two_workers, stage_over, trained, weights

from data import checkpoints
from data.store import Store
from sweeps.lineage import Identities, stages
from sweeps.loading import ConfigError, parse, with_params
from trainers import adapters, models, start
from trainers.config import DeepSpeedConfig, LoraConfig, ModelConfig, TrainConfig
from trainers.job import KIND
from trainers.keys import merge_key
from trainers.loss import seed_dropout

MODEL = ModelConfig(path="toy")
LORA = LoraConfig(rank=4, alpha=8)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A stage over 24 word problems: three steps."""
    root = str(tmp_path_factory.mktemp("store"))
    return stage_over(root, MODEL, TrainConfig(epochs=1, lr=5e-3, batch_size=8, max_length=128, rows=4, lora=LORA))


def logits(folder, store):
    """What a published checkpoint answers, opened with transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = checkpoints.in_folder(folder, store)
    model = AutoModelForCausalLM.from_pretrained(found.model)
    if found.adapter:
        model = PeftModel.from_pretrained(model, found.adapter)
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(1, 60)[None]).logits


@pytest.fixture(scope="module")
def adapter(job):
    return trained(job, "adapter")


def test_an_adapter_folder_names_its_base_and_opens_with_peft_alone(job, adapter):
    store = Store(job.store)
    assert json.loads((adapter / "base.json").read_text()) == {"kind": "bases", "key": job.base}
    assert (adapter / "tokenizer.json").is_file() and not list(adapter.glob("model*.safetensors"))
    plain = logits(store.fetch("bases", job.base), store)
    assert (logits(adapter, store) - plain).abs().max() > 1e-2


def test_an_adapter_is_trained_the_same_twice_to_the_bit(job, adapter):
    assert apart(weights(trained(job, "again")), weights(adapter)) == 0


@pytest.mark.parametrize(
    "layout",
    [
        {"deepspeed": DeepSpeedConfig(zero=0)},
        {"deepspeed": DeepSpeedConfig(zero=3)},
        {"packing": False, "rows": 16, "gradient_checkpointing": True},
        {"deepspeed": DeepSpeedConfig(zero=3), "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_the_layout_does_not_change_an_adapter(job, adapter, layout):
    assert apart(weights(trained(job, f"layout {layout}".replace("/", ""), **layout)), weights(adapter)) < 1e-4


@pytest.mark.slow
def test_two_workers_train_what_one_trains(job, adapter, tmp_path):
    """With every ZeRO stage; then full weights from the merged adapter, which the first of them merges."""
    merged = merge_key("two workers 1")
    sharded = {
        f"two workers {zero}": job.train.model_copy(update={"deepspeed": DeepSpeedConfig(zero=zero)}) for zero in range(4)
    }
    jobs = [replace(job, key=key, train=train) for key, train in sharded.items()]
    full = job.train.model_copy(update={"lora": None, "lr": 1e-12})
    on_two_workers([*jobs, replace(job, key="two merged", parent="two workers 1", merged=merged, train=full)], tmp_path)
    store = Store(job.store)
    for key in sharded:
        assert apart(weights(store.fetch(KIND, key)), weights(adapter)) < 1e-4, key
    assert (logits(store.fetch(KIND, "two merged"), store) - logits(adapter, store)).abs().max() < 1e-3


@pytest.mark.parametrize("zero", [2, 3])
def test_dora_learns_magnitudes(job, zero):
    lora = LORA.model_copy(update={"dora": True})
    folder = trained(job, f"dora {zero}", lora=lora, deepspeed=DeepSpeedConfig(zero=zero))
    found = weights(folder)
    assert any("lora_magnitude_vector" in name for name in found)
    if zero == 3:
        assert apart(found, weights(Store(job.store).fetch(KIND, "dora 2"))) < 1e-4


def test_an_adapter_is_continued_on_the_base_of_its_parent(job, adapter):
    folder = trained(job, "continued", parent="adapter", lr=1e-12)
    assert apart(weights(folder), weights(adapter)) < 1e-9
    assert checkpoints.in_folder(folder, Store(job.store)).model == checkpoints.in_folder(adapter, Store(job.store)).model


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "a new adapter"])
def test_a_parents_adapter_is_merged_before_other_weights_are_trained(job, adapter, lora):
    """With a rate of next to nothing, the child answers what its parent answers."""
    store, merged = Store(job.store), merge_key("adapter")
    folder = trained(job, f"on merged {lora is None}", parent="adapter", merged=merged, lora=lora, lr=1e-12)
    assert (logits(folder, store) - logits(adapter, store)).abs().max() < 1e-4
    assert not checkpoints.in_folder(store.fetch(KIND, merged)).adapter
    assert bool(checkpoints.in_folder(folder, store).adapter) == (lora is not None)


def test_an_adapter_is_merged_once(job, adapter):
    store, merged = Store(job.store), merge_key("adapter")
    child = replace(job, key="child", parent="adapter", merged=merged)
    with alone():
        first = start.find(child, store)
        attempt = store.record(KIND, merged)["attempt"]
        assert start.find(child, store) == first
    assert store.record(KIND, merged)["attempt"] == attempt


def test_an_adapter_starts_from_a_fully_trained_parent(job):
    trained(job, "full", lora=None)
    folder = trained(job, "after full", parent="full", lr=1e-12)
    assert json.loads((folder / "base.json").read_text()) == {"kind": "stages", "key": "full"}
    store = Store(job.store)
    assert (logits(folder, store) - logits(store.fetch(KIND, "full"), store)).abs().max() < 1e-4


def test_a_fresh_adapter_does_not_depend_on_what_was_drawn_before(job):
    plain = Store(job.store).fetch("bases", job.base)
    made = []
    for drawn in (0, 1):
        model = models.load(str(plain), MODEL)
        torch.rand(drawn)
        made.append({n: p.detach() for n, p in adapters.put_on(model, job.train, MODEL).named_parameters() if "lora_A" in n})
    assert apart(*made) == 0


def test_dropout_changes_what_is_learned_in_the_same_way_every_time(job, adapter):
    lora = LORA.model_copy(update={"dropout": 0.5})
    one, same = (weights(trained(job, key, lora=lora)) for key in ("dropout", "dropout again"))
    assert apart(one, same) == 0
    assert apart(one, weights(adapter)) > 1e-4


def test_what_dropout_draws_depends_on_the_step_and_not_on_the_steps_before():
    def draw(step):
        seed_dropout(0, step)
        return torch.rand(4)

    with alone():
        assert torch.equal(draw(3), draw(3))
        assert not torch.equal(draw(3), draw(4))


def test_added_tokens_are_learned_with_an_adapter(tmp_path):
    model = ModelConfig(path="toy", add_tokens=("<|think|>",))
    job = stage_over(str(tmp_path), model, TrainConfig(lr=5e-3, epochs=1, batch_size=8, max_length=128, lora=LORA))
    folder = trained(job, "tokens")
    names = [name for name in weights(folder) if "lora" not in name]
    assert any("embed_tokens" in name for name in names)
    merged = trained(job, "after", parent="tokens", merged=merge_key("tokens"), lora=None, lr=1e-12)
    assert (logits(merged, Store(job.store)) - logits(folder, Store(job.store))).abs().max() < 1e-4


DAMAGES = {"renamed": "not those of", "missing": "were written", "empty": "were written", "dead": "does not change"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_would_do_nothing_is_not_published(job, adapter, tmp_path, damage):
    import shutil

    shutil.copytree(adapter, tmp_path / "adapter")
    tensors = load_file(adapter / adapters.WEIGHTS)
    expected = sum(tensor.numel() for tensor in tensors.values())
    name = sorted(tensors)[0]
    tensor = tensors.pop(name)
    if damage == "renamed":
        tensors = {f"model.{key}": value for key, value in (tensors | {name: tensor}).items()}
    if damage == "empty":
        tensors[name] = tensor[:0]
    if damage == "dead":
        tensors = {key: value * ("lora_A" not in key) for key, value in (tensors | {name: tensor}).items()}
    save_file(tensors, tmp_path / "adapter" / adapters.WEIGHTS)
    plain = models.load(checkpoints.in_folder(adapter, Store(job.store)).model, MODEL)
    with pytest.raises(models.BrokenModel, match=DAMAGES[damage]):
        adapters.refuse_dead(tmp_path / "adapter", plain, expected, 1e-6)


def test_four_bits_need_bitsandbytes(job):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(models.BrokenModel, match="bitsandbytes is not installed"):
        trained(job, "4 bits", lora=LORA.model_copy(update={"quantize": "nf4"}))


KNOWN = Identities("base", {"math": "m", "code": "c", "chat": "g"}, "items")


def keys(small, **params):
    values = small | {"train": small["train"] | {"lora": {"rank": 4}}}
    return stages(with_params(parse(values), {"k": 0.25} | params), KNOWN)


@pytest.mark.parametrize("field", ["rank", "alpha", "dropout", "dora", "rslora", "quantize"])
def test_every_setting_of_an_adapter_is_in_the_key(small, field):
    other = {"rank": 8, "alpha": 4, "dropout": 0.5, "dora": True, "rslora": True, "quantize": "nf4"}[field]
    assert not {s.key for s in keys(small)} & {s.key for s in keys(small, **{f"train.lora.{field}": other})}


def test_how_a_parents_adapter_is_taken_up_changes_the_second_stage_alone(small):
    one, other = keys(small), keys(small, **{"train.lora.parent": "merge"})
    assert one[0].key == other[0].key and one[1].key != other[1].key
    assert (one[1].merged, other[1].merged) == (None, merge_key(one[0].key))


def explicit(small, *loras):
    written = [{"mixture": {"math": 1}, "train": {"lora": lora}} for lora in loras]
    return small | {"strategy": "explicit", "stages": written, "search": {}, "k": None}


def test_full_training_after_an_adapter_merges_it(small):
    first, second = stages(parse(explicit(small, {"rank": 4}, None)), KNOWN)
    assert second.merged == merge_key(first.key)


def test_an_adapter_of_another_shape_cannot_be_trained_on(small):
    with pytest.raises(ConfigError, match=r"stages\.1\.train\.lora\.rank.*parent: merge"):
        parse(explicit(small, {"rank": 4}, {"rank": 8}))
    parse(explicit(small, {"rank": 4}, {"rank": 8, "parent": "merge"}))


def test_the_rank_can_be_searched(small):
    space = {"train.lora.rank": {"type": "choice", "values": [2, 4]}, "k": small["search"]["space"]["k"]}
    values = small | {"train": small["train"] | {"lora": {}}, "search": {"sampler": "grid", "space": space}}
    one, other = (stages(with_params(parse(values), {"k": 0.0, "train.lora.rank": rank}), KNOWN) for rank in (2, 4))
    assert one[0].key != other[0].key


def test_four_bits_without_bitsandbytes_are_a_config_error(small):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(ConfigError, match=r"train\.lora\.quantize = 'nf4': needs bitsandbytes"):
        parse(small | {"train": small["train"] | {"lora": {"quantize": "nf4"}}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"path": "toy", "attention": "flash_attention_2"}}, "set dtype: bf16"),
        ({"train": {"lora": {"quantize": "nf4"}, "deepspeed": {"zero": 3}}}, "set deepspeed.zero to 2 or below"),
        ({"train": {"lora": {"rank": 0}}}, "train.lora.rank"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_a_config_error(small, change, said):
    with pytest.raises(ConfigError, match=said):
        parse(small | change)
