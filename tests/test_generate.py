"""Generation: exactly what plain, unbatched `generate` says; where an answer ends; adapters; every engine."""

import json
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data import tokenizers
from data.checkpoints import Checkpoint, in_folder, name_base
from evaluators.benchmark import EvaluationFailed, Item, Sampling
from evaluators.generation import engines
from evaluators.generation.config import EndpointConfig, VllmConfig
from evaluators.generation.draw import Draw, choose
from evaluators.generation.interface import Request, answer
from evaluators.generation.local import Transformers

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
KINDS = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 16},
    "qwen3": {"head_dim": 16},
    "gpt2": {},
    "mamba": {"state_size": 8},
}


def saved(folder, kind, seed=0, spread=1.0, **more):
    """A random model of a kind, as a Hugging Face folder. A larger spread of its weights makes answers less monotonous."""
    tokenizer = tokenizers.characters()
    values = {**SHAPE, **KINDS[kind], "vocab_size": len(tokenizer), "bos_token_id": None, **more}
    values |= {"eos_token_id": values.get("eos_token_id", tokenizer.eos_token_id), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spread if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("llama"), "llama", spread=4.0)


def mixed(count, length, seed=0, **more):
    """Requests of the most unlike lengths: one letter beside hundreds."""
    rng = random.Random(seed)
    sizes = [rng.choice([1, 2, 17, 60, 200, 330]) for _ in range(count)]
    texts = ["".join(rng.choice("abcdef 0123456789.") for _ in range(size)) for size in sizes]
    return [Request(str(i), ({"role": "user", "content": text},), length, **more) for i, text in enumerate(texts)]


def opened(folder, size):
    engine = Transformers(size)
    engine.open(in_folder(folder) if hasattr(folder, "joinpath") else Checkpoint(folder, folder))
    return engine


def tokens(engine, requests):
    """The tokens that an engine says, before they become text."""
    return engine._decoder.run(requests, [engine._text.prompt(request) for request in requests])


def plain(model, engine, requests):
    """What `generate` says to each prompt by itself."""
    said = []
    for request in requests:
        prompt = torch.tensor([engine._text.prompt(request)])
        how = {"do_sample": False, "max_new_tokens": request.max_new_tokens}
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **how)
        said.append(output[0, prompt.shape[1] :].tolist())
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_plain_generate_whatever_the_batch(tmp_path, kind):
    path = saved(tmp_path, kind, spread=4.0)
    requests = mixed(24, 24)
    engine = opened(path, 9)
    said = tokens(engine, requests)
    assert said == plain(AutoModelForCausalLM.from_pretrained(path), engine, requests)
    assert len({tuple(ids) for ids in said}) > 6
    others = requests[::-1] if kind != "mamba" else requests[:4]
    assert tokens(opened(path, 4), others) == (said[::-1] if kind != "mamba" else said[:4])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_greedy_answers_of_many_random_models_are_those_of_plain_generate(tmp_path, seed):
    path = saved(tmp_path, "llama", seed, spread=1.0 + seed / 3)
    requests = mixed(48, 96, seed)
    engine = opened(path, 16)
    assert tokens(engine, requests) == plain(AutoModelForCausalLM.from_pretrained(path), engine, requests)


def adapter(base, folder, scale, rank=4):
    """An adapter of a base, of which the second matrices are random numbers of a size, 0 for one that has learned nothing."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=rank, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=scale) if scale else parameter.zero_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    name_base(folder, {"path": base})
    return folder


def test_greedy_answers_of_an_adapter_are_those_of_plain_generate(folder, tmp_path):
    from peft import PeftModel

    engine, requests = opened(folder, 7), mixed(20, 16)
    base = tokens(engine, requests)
    model = engine._models._base
    for name, scale in (("a", 0.5), ("b", 0.05)):
        path = adapter(folder, tmp_path / name, scale)
        engine.open(in_folder(path))
        reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(path))
        said = tokens(engine, requests)
        assert said == plain(reference, engine, requests)
        assert said != base
    assert engine._models._base is model  # the base was not loaded again
    engine.open(Checkpoint(folder, folder))
    assert tokens(engine, requests) == base


def test_an_adapter_that_changes_nothing_is_refused_unless_it_is_zero(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    engine = Transformers(4)
    engine.open(in_folder(adapter(folder, tmp_path / "zero", 0.0)))
    path = adapter(folder, tmp_path / "misnamed", 0.5)
    weights = load_file(path / "adapter_model.safetensors")
    save_file({name.replace("layers.", "blocks."): w for name, w in weights.items()}, path / "adapter_model.safetensors")
    with pytest.raises(EvaluationFailed, match="the adapter changes nothing"):
        engine.open(in_folder(path))


def test_a_folder_that_lacks_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    AutoConfig.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    weights = load_file(f"{folder}/model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EvaluationFailed, match=r"missing_keys.*up_proj"):
        Transformers(4).open(in_folder(tmp_path))


def test_scores_too_close_for_rounding_are_told():
    draws = [Draw(Request("0", (), 1))] * 3
    chosen, near = choose(torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0 - 1e-6, 0.0], [0.0, 1.0 - 1e-3, 1.0]]), draws)
    assert (chosen, near) == ([1, 0, 2], [False, True, False])
    sure = Draw(Request("0", (), 1, Sampling(1.0, 0.5)))
    _, on_it = choose(torch.tensor([[0.0, 0.0, -100.0]]), [sure])  # the second token is on the edge of half
    assert on_it == [True]


def test_rows_that_rounding_could_turn_are_decoded_alone(tmp_path):
    path = saved(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():  # two tokens with the same scores for ever
        model.get_input_embeddings().weight[10] = model.get_input_embeddings().weight[11]
        model.get_input_embeddings().weight[10:12] *= 20
    model.save_pretrained(path)
    engine, requests = opened(path, 8), mixed(12, 12)
    assert tokens(engine, requests) == plain(model, engine, requests)
    assert engine._decoder.again > 0


def test_an_answer_ends_at_any_of_the_ends_that_model_or_tokenizer_name(tmp_path):
    path = saved(tmp_path, "llama", spread=4.0)
    requests = mixed(12, 40)
    free = tokens(opened(path, 4), requests)
    common = [token for ids in free for token in ids[2:20]]
    end = max(set(common), key=common.count)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end], "repetition_penalty": 5.0}))
    engine = opened(path, 4)
    ended = tokens(engine, requests)
    assert ended == [ids[: ids.index(end) + 1] if end in ids else ids for ids in free]
    completions = engine.complete(requests)
    stopped = [end in ids for ids in free]
    assert any(stopped)
    assert [one.finish for one in completions] == ["stop" if one else "length" for one in stopped]
    assert [one.tokens for one in completions] == [len(ids) - one for ids, one in zip(ended, stopped, strict=True)]


def test_sampling_defaults_of_a_model_do_not_leak_in(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    leaky = {"do_sample": True, "temperature": 2.0, "top_k": 3, "repetition_penalty": 9.0, "min_new_tokens": 20,
        "suppress_tokens": list(range(20, 60)), "no_repeat_ngram_size": 1, "max_length": 30}  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(leaky))
    requests = mixed(8, 24)
    engine = opened(str(tmp_path), 4)
    assert tokens(engine, requests) == tokens(opened(folder, 4), requests)
    row = requests[:2]
    assert [engine._decoder._alone(r) for r in rows(engine, row)] == tokens(opened(folder, 4), row)


def rows(engine, requests):
    from evaluators.generation.decode import Row

    return [Row(i, r, engine._text.prompt(r), Draw(r)) for i, r in enumerate(requests)]


def test_stop_strings_cut_the_text_exactly_and_end_the_row(folder):
    requests = mixed(12, 40)
    free = opened(folder, 4).complete(requests)
    stops = tuple(one.text[6:9] for one in free if len(one.text) > 8)[:5]
    assert len(set(stops)) > 2
    engine = opened(folder, 4)
    stopped = [Request(r.id, r.messages, r.max_new_tokens, r.sampling, stops) for r in requests]
    said = engine.complete(stopped)
    places = [min((p for stop in stops if (p := one.text.find(stop)) >= 0), default=None) for one in free]
    assert [one.text for one in said] == [one.text[:place] for one, place in zip(free, places, strict=True)]
    assert [one.finish for one in said] == [o.finish if p is None else "stop" for o, p in zip(free, places, strict=True)]
    decode = AutoTokenizer.from_pretrained(folder).decode
    for one, ids in zip(said, tokens(engine, requests), strict=True):
        texts = [decode(ids[:n], skip_special_tokens=True) for n in range(1, len(ids) + 1)]
        ends = [n for n, text in enumerate(texts, 1) if any(stop in text for stop in stops)]
        assert one.tokens == (ends[0] if ends else len(ids) - (one.finish == "stop"))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_samples_do_not_depend_on_batch_or_order_and_follow_the_seed(folder, top_p):
    requests = mixed(16, 16, sampling=Sampling(1.0, top_p))
    said = opened(folder, 16).complete(requests)
    assert opened(folder, 3).complete(requests[::-1]) == said[::-1]
    again = mixed(16, 16, sampling=Sampling(1.0, top_p, seed=1))
    assert opened(folder, 16).complete(again) != said


def test_greedy_and_sampled_requests_share_a_batch(folder):
    both = [r for pair in zip(mixed(6, 12), mixed(6, 12, sampling=Sampling(0.7)), strict=True) for r in pair]
    said = opened(folder, 12).complete(both)
    assert said[::2] == opened(folder, 4).complete(both[::2])
    assert said[1::2] == opened(folder, 4).complete(both[1::2])


def test_sampling_draws_tokens_as_often_as_their_probabilities_say():
    scores = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log().expand(4000, 4)
    draws = [Draw(Request(str(i), (), 1, Sampling(1.0, 0.8))) for i in range(4000)]
    chosen, _ = choose(scores, draws)
    shares = [chosen.count(token) / 4000 for token in range(4)]
    assert shares == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0], abs=0.03)  # the nucleus is the first three


def test_worked_examples_come_before_the_question(folder):
    engine = opened(folder, 4)
    [[one]] = answer(engine, [Item("0", ("c?",), shots=(("a?", "A"), ("b?", "B")))], 8, Sampling())
    talk = [("user", "a?"), ("assistant", "A"), ("user", "b?"), ("assistant", "B"), ("user", "c?")]
    request = Request("0", tuple({"role": role, "content": text} for role, text in talk), 8)
    assert engine.complete([request]) == [one]


def test_continuous_batching_needs_a_gpu():
    from evaluators.generation.continuous import Continuous

    if not torch.cuda.is_available():
        with pytest.raises(EvaluationFailed, match="needs a GPU and there is none; use transformers"):
            Continuous()


@pytest.mark.slow
def test_continuous_batching_of_transformers_says_what_plain_generate_says(folder):
    from evaluators.generation.continuous import in_flight

    engine, requests = opened(folder, 4), mixed(6, 8)
    prompts = [engine._text.prompt(request) for request in requests]
    model = AutoModelForCausalLM.from_pretrained(folder)
    said = [engine._text.cut(ids, r) for ids, r in zip(in_flight(model, prompts, 8, engine._text), requests, strict=True)]
    assert said == tokens(engine, requests)


class Server(BaseHTTPRequestHandler):
    """Speaks OpenAI's protocol and says back what it was asked; every third request meets a busy server."""

    seen: list = []

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, asked, self.headers.get("authorization")))
        if len(self.seen) % 3 == 1:
            return self._send(429, {"error": {"message": "busy"}})
        if asked["model"] != "m":
            return self._send(404, {"error": {"message": f"no model {asked['model']}"}})
        text = "".join(f"<{m['content']}>" for m in asked["messages"]) if "messages" in asked else f"raw {asked['prompt']}"
        choice = {"index": 0, "finish_reason": "length" if "long" in text else "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
        self._send(200, {"id": "1", "object": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage})

    def _send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (("content-type", "application/json"), ("content-length", str(len(body))), ("retry-after-ms", "1")):
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.seen = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


def test_an_endpoint_is_asked_turn_by_turn_and_asked_again_when_it_is_busy(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    engine = engines.make(EndpointConfig(kind="openai", base_url=server, model="m", key_env="SOME_KEY"), 8)
    items = [Item("0", ("a", "b")), Item("1", ("long",)), Item("2", ("def f",), raw=True), Item("3", ("xyz",), stops=("y",))]
    said = answer(engine, items, 9, Sampling(0.5, 0.9, seed=4))
    texts = [[turn.text for turn in turns] for turns in said]
    assert texts == [["<a>", "<a><<a>><b>"], ["<long>"], ["raw def f"], ["<x"]]
    assert [turn.finish for turns in said for turn in turns] == ["stop", "stop", "length", "stop", "stop"]
    assert {turn.tokens for turns in said for turn in turns} == {7}
    paths, asked, keys = zip(*Server.seen, strict=True)
    assert set(paths) == {"/v1/chat/completions", "/v1/completions"}
    assert set(keys) == {"Bearer s3cret"}
    assert {(a["max_tokens"], a["temperature"], a["top_p"]) for a in asked} == {(9, 0.5, 0.9)}
    assert len({a["seed"] for a in asked}) == 5  # one per turn and item, and the same when asked again


def test_an_endpoint_that_does_not_answer_fails_the_evaluation(server, monkeypatch):
    with pytest.raises(EvaluationFailed, match=r"no answer to item 0: .*no model other"):
        engines.make(EndpointConfig(kind="openai", base_url=server, model="other"), 8).complete(mixed(1, 1))
    monkeypatch.setenv("SOME_KEY", "other")  # the server repeats the name of the model, and so the key
    with pytest.raises(EvaluationFailed, match=r"no model \[key\]") as failed:
        engines.make(EndpointConfig(kind="openai", base_url=server, model="other", key_env="SOME_KEY"), 8).complete(mixed(1, 1))
    assert failed.value.__cause__ is None and failed.value.__context__ is None
    gone = EndpointConfig(kind="openai", base_url="http://127.0.0.1:9", model="m", retries=0)
    with pytest.raises(EvaluationFailed, match="no answer to item 0"):
        engines.make(gone, 8).complete(mixed(1, 1))
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EvaluationFailed, match="the environment does not hold it"):
        engines.make(EndpointConfig(kind="openai", base_url=server, model="m", key_env="SOME_KEY"), 8)


VLLM = """
import json, os, sys
__version__ = "0.0-test"
print("vllm talks on stdout")

class SamplingParams:
    def __init__(self, **how): self.how = how

class Said:
    def __init__(self, text, how, lora):
        self.text, self.token_ids, self.finish_reason = text, [1] * len(text), "length" if "long" in text else "stop"
        self.logprobs = [{5: type("L", (), {"logprob": -1.0 if lora is None or "ignored" in lora.path else -2.0})}]

class LLM:
    def __init__(self, **how):
        print("loading", how); self.how = how
        if how["model"] == "broken": raise ValueError("cannot load it")
    def _all(self, texts, how, lora):
        how = how if isinstance(how, list) else [how] * len(texts)
        name = lora.path.rsplit("/", 1)[-1] + f"#{lora.id} " if lora else ""
        return [type("O", (), {"outputs": [Said(name + t + str(h.how.get("seed", "")), h, lora)]}) for t, h in zip(texts, how)]
    def generate(self, prompts, how, use_tqdm, lora_request=None):
        if "die" in prompts: os._exit(3)
        return self._all(prompts, how, lora_request)
    def chat(self, talks, how, use_tqdm, lora_request=None):
        return self._all(["/".join(m["content"] for m in talk) for talk in talks], how, lora_request)
"""


@pytest.fixture
def vllm_python(tmp_path, monkeypatch):
    """An interpreter whose `vllm` is a module with vLLM's interface that says back what it is asked."""
    package = tmp_path / "site" / "vllm"
    (package / "lora").mkdir(parents=True)
    (package / "__init__.py").write_text(VLLM)
    (package / "lora" / "__init__.py").write_text("")
    (package / "lora" / "request.py").write_text(
        "class LoRARequest:\n    def __init__(self, name, id, path): self.name, self.id, self.path = name, id, path\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_vllm_answers_from_a_process_of_its_own(vllm_python, folder, tmp_path):
    engine = engines.make(VllmConfig(kind="vllm", python=vllm_python, options={"seed": 1}), 8)
    engine.open(Checkpoint("base", "base"))
    items = [Item("0", ("a", "b")), Item("1", ("long",)), Item("2", ("def f",), raw=True)]
    said = answer(engine, items, 9, Sampling())
    assert [[t.text for t in turns] for turns in said] == [["a", "a/a/b"], ["long"], ["def f"]]
    assert [turns[0].finish for turns in said] == ["stop", "length", "stop"]
    assert engine.about() == {"engine": "vllm", "vllm": "0.0-test"}
    first = engine._process.pid
    for name, number in (("one", 1), ("two", 2)):  # adapters of one base follow each other in one process
        path = str(adapter(folder, tmp_path / name, 0.5))
        engine.open(Checkpoint(path, "base", path))
        assert engine.complete(mixed(1, 1))[0].text.startswith(f"{name}#{number} ")
    assert engine._process.pid == first
    path = str(adapter(folder, tmp_path / "ignored", 0.5))
    with pytest.raises(EvaluationFailed, match="the adapter changes nothing"):
        engine.open(Checkpoint(path, "base", path))
    engine.close()


def test_a_vllm_that_is_absent_fails_or_dies_is_told_and_can_be_opened_again(vllm_python):
    with pytest.raises(EvaluationFailed, match="no such interpreter; make an environment with"):
        engines.make(VllmConfig(kind="vllm", python="/nowhere/python"), 8)
    with pytest.raises(EvaluationFailed, match="No module named 'vllm'"):
        engines.make(VllmConfig(kind="vllm", python=sys.executable), 8).open(Checkpoint("base", "base"))
    engine = engines.make(VllmConfig(kind="vllm", python=vllm_python), 8)
    with pytest.raises(EvaluationFailed, match="cannot load it"):
        engine.open(Checkpoint("broken", "broken"))
    engine.open(Checkpoint("base", "base"))
    with pytest.raises(EvaluationFailed, match="the process ended with 3"):
        engine.complete([Request("0", ({"role": "user", "content": "die"},), 4, raw=True)])
    engine.open(Checkpoint("base", "base"))
    assert engine.complete(mixed(2, 4))
    engine.close()
