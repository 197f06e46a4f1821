"""Models: opened whole or not at all, extended without a random number, and asked for logits only where there are labels."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from stages import apart, stage_over, trained, weights
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data.store import Store
from data.tokens import IGNORED
from trainers import base, loss, models
from trainers.batches import collate
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.loss import PackingLeaks, refuse_leaks, selects, summed_loss

SMALL = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
EXAMPLES = [
    {"input_ids": [(7 * i + j) % 50 + 2 for j in range(n)], "labels": [IGNORED] * k + [(3 * j) % 50 for j in range(n - k)]}
    for i, (n, k) in enumerate([(9, 4), (5, 2), (12, 1), (7, 6), (3, 0)])
]
ROWS = [[0, 1], [2], [3, 4]]
UNTIED = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
TRAIN = TrainConfig(epochs=1, lr=5e-3, batch_size=8, max_length=128, rows=4)


class Engine(torch.nn.Module):
    """What the loss needs of DeepSpeed's engine."""

    def __init__(self, model):
        super().__init__()
        self.module, self.device = model, torch.device("cpu")

    def forward(self, **inputs):
        return self.module(**inputs)


class KnowsNoSelection(LlamaForCausalLM):
    """A model with code of its own, which computes all logits."""

    def forward(self, input_ids=None, position_ids=None, use_cache=None):
        return super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)


def small(kind, **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more))


MODELS = {
    "llama": lambda: small("llama"),
    "tied": lambda: small("llama", tie_word_embeddings=True),
    "soft-capped": lambda: small("gemma2", final_logit_softcapping=0.05, query_pre_attn_scalar=8, sliding_window=64),
    "scaled": lambda: small("granite", logits_scaling=0.1),
    "gpt2": lambda: small("gpt2", n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0),
    "adapter": lambda: with_adapter(small("llama")),
    "own code": lambda: KnowsNoSelection(LlamaConfig(**SMALL)),
}


def with_adapter(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_all_logits(name):
    """In every row of a batch, with what a model does to its logits behind the head."""
    model = MODELS[name]()
    batch = collate(EXAMPLES, ROWS, padding=0)
    logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    whole = cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
    found = summed_loss(Engine(model), EXAMPLES, ROWS)
    assert selects(model) == (name != "own code")
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(whole, parameters), strict=True):
        assert (one - other).abs().max() < 1e-4 * max(1, other.abs().max())


def test_logits_are_computed_only_where_there_are_labels():
    seen = []
    model = MODELS["llama"]()
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    summed_loss(Engine(model), EXAMPLES, ROWS)
    assert seen == [sum(label != IGNORED for example in EXAMPLES for label in example["labels"][1:])]


def test_rows_one_behind_the_other_give_the_same_loss(monkeypatch):
    """The layout for flash kernels: one row without padding, in which position ids alone keep examples apart."""
    model = Engine(MODELS["llama"]())
    rows = summed_loss(model, EXAMPLES, ROWS).item()
    monkeypatch.setattr(loss, "_flash", lambda model: True)
    assert summed_loss(model, EXAMPLES, ROWS).item() == pytest.approx(rows, rel=1e-5)
    flat = collate(EXAMPLES, ROWS, padding=0, flat=True)
    assert flat.input_ids.shape == (1, sum(len(example["input_ids"]) for example in EXAMPLES))


def test_a_worker_without_rows_takes_part_with_gradients_of_zero():
    model = MODELS["llama"]()
    found = summed_loss(Engine(model), EXAMPLES, [])
    found.backward()
    assert found.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_model_in_which_packed_examples_see_each_other_is_refused():
    refuse_leaks(Engine(small("llama")))
    with pytest.raises(PackingLeaks, match=r"MambaForCausalLM; set train\.packing: false"):
        refuse_leaks(Engine(small("mamba", state_size=4)))


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_start_as_the_mean_of_the_others(tmp_path, tied):
    plain = ModelConfig(init_from_config=UNTIED | {"tie_word_embeddings": tied}, tokenizer="characters")
    more = plain.model_copy(update={"add_tokens": ("<|think|>", "<|done|>")})
    store = Store(str(tmp_path))
    folder = base.location(more, store)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert tokenizer("<|think|>", add_special_tokens=False)["input_ids"] == [len(tokenizer) - 2]
    before = AutoModelForCausalLM.from_pretrained(base.location(plain, store))
    for new, old in (
        (model.get_input_embeddings(), before.get_input_embeddings()),
        (model.get_output_embeddings(), before.get_output_embeddings()),
    ):
        assert torch.equal(new.weight[:-2], old.weight)
        assert torch.allclose(new.weight[-2:], old.weight.mean(0), atol=1e-6)
    assert apart(weights(folder), weights(base.location(more, Store(str(tmp_path / "other"))))) == 0


def test_embeddings_that_are_longer_than_the_tokenizer_keep_their_length(tmp_path):
    plain = ModelConfig(init_from_config=UNTIED | {"vocab_size": 128}, tokenizer="characters")
    folder = base.location(plain.model_copy(update={"add_tokens": ("<|think|>",)}), Store(str(tmp_path)))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == 128 > len(tokenizer)
    rows = model.get_input_embeddings().weight
    assert torch.allclose(rows[len(tokenizer) - 1], rows[: len(tokenizer) - 1].mean(0), atol=1e-6)


def test_added_tokens_make_another_base():
    plain, more = ModelConfig(path="toy"), ModelConfig(path="toy", add_tokens=("<|think|>",))
    assert base.fingerprint(plain) != base.fingerprint(more)
    assert base.named(more) == {"kind": base.KIND, "key": base.fingerprint(more)}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A stage of a model with added tokens and a head of its own."""
    model = ModelConfig(init_from_config=UNTIED, tokenizer="characters", add_tokens=("<|think|>",))
    return stage_over(str(tmp_path_factory.mktemp("store")), model, TRAIN)


@pytest.fixture(scope="module")
def reference(job):
    return trained(job, "reference")


def test_a_model_with_a_head_of_its_own_and_added_tokens_is_published_whole(job, reference):
    model, told = AutoModelForCausalLM.from_pretrained(reference, output_loading_info=True)
    assert not any(told.values())
    assert not model.config.tie_word_embeddings
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(reference))


@pytest.mark.parametrize(
    "how",
    [
        {"deepspeed": DeepSpeedConfig(zero=3)},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "deepspeed": DeepSpeedConfig(zero=3)},
    ],
    ids=str,
)
def test_memory_is_saved_without_another_result(job, reference, how):
    assert apart(weights(trained(job, str(how).replace("/", ""), **how)), weights(reference)) < 1e-4


def test_the_attention_kernel_does_not_change_the_result(job, reference):
    eager = replace(job, model=job.model.model_copy(update={"attention": "eager"}))
    assert apart(weights(trained(eager, "eager")), weights(reference)) < 1e-4


def test_a_stage_in_bf16_publishes_bf16(job):
    half = replace(job, model=job.model.model_copy(update={"dtype": "bf16"}))
    folder = trained(half, "bf16")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    model = MODELS["llama"]()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        models.load(str(tmp_path), ModelConfig(path=str(tmp_path)))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    MODELS["llama"]().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        models.load(str(tmp_path), ModelConfig(path=str(tmp_path)))
    assert not (tmp_path / "ran").exists()
