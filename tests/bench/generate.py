"""Generation beside lm-eval's Hugging Face backend, and a warm actor's engine beside a cold process.

`make bench`, or `python tests/bench/generate.py`. Both backends answer the same prompts with the same random model and batch
size, greedily, in turns and on one thread; CPU seconds are counted, so that what else the machine does weighs on neither. The
model says its end-of-sequence token now and then, so the lengths are mixed, as those of real answers are.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data import tokenizers
from data.checkpoints import Checkpoint, in_folder, name_base
from evaluators.generation.interface import Request
from evaluators.generation.local import Transformers

ROUNDS, PROMPTS, BATCH, LENGTH = 3, 48, 16, 256
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 1024}  # fmt: skip
COLD = """
import json, resource, sys, time
sys.path.insert(0, {path!r})
from generate import Checkpoint, Transformers, asked
engine = Transformers({batch})
engine.open(Checkpoint({model!r}, {model!r}))
engine.complete(asked(4, 8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def saved(folder: str, seed: int = 0) -> str:
    """A random LLaMA of about 3M parameters that wanders through its letters and comes upon its end by chance."""
    tokenizer = tokenizers.characters()
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE, **ids, bos_token_id=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 1.25  # ends often enough
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked(count: int, length: int) -> list[Request]:
    """Prompts of 20 to 300 letters, to be continued."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("abcdefgh 0123456789") for _ in range(rng.randint(20, 300))) for _ in range(count)]
    return [Request(str(i), ({"role": "user", "content": text},), length, raw=True) for i, text in enumerate(texts)]


def main() -> None:
    """Print tokens per CPU second in each round and the median ratio; then seconds and memory of warm and cold trials."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        _beside_lm_eval(saved(f"{work}/a"))
        _warm_and_cold(f"{work}/a", saved(f"{work}/b", 1), Path(work))


def _beside_lm_eval(folder: str) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    requests = asked(PROMPTS, LENGTH)
    engine = Transformers(BATCH)
    engine.open(Checkpoint(folder, folder))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, max_length=1024, device="cpu")
    how = {"until": [tokenizer.eos_token], "max_gen_toks": LENGTH, "do_sample": False}
    instances = [Instance("generate_until", {}, (request.text, how), i) for i, request in enumerate(requests)]
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        theirs = peer.generate_until(instances, disable_tqdm=True)
        between = time.process_time()
        ours = engine.complete(requests)
        rounds.append((between - started, time.process_time() - between))
    same = sum(one.text == text for one, text in zip(ours, theirs, strict=True))
    counts = sorted(one.tokens for one in ours)
    total = sum(counts)
    print(
        f"generation: {PROMPTS} prompts in batches of {BATCH}, answers of {counts[0]} to {counts[-1]} tokens, median "
        f"{counts[len(counts) // 2]}; {same} of {PROMPTS} answers equal, {engine._decoder.again} rows decoded again alone"
    )
    for peers, mine in rounds:
        print(f"  lm-eval {total / peers:7.0f} tokens per CPU second   here {total / mine:7.0f}   ratio {peers / mine:.2f}")
    print(f"  median ratio {median(peers / mine for peers, mine in rounds):.2f} (target: at least 2)")


def _warm_and_cold(first: str, second: str, work: Path) -> None:
    """One trial: open its checkpoint and answer four short prompts."""
    script = COLD.format(path=str(Path(__file__).parent), batch=BATCH, model=second)
    started = time.monotonic()
    peak = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    print(f"trial: cold process      {time.monotonic() - started:6.2f} s, {peak:6.0f} MiB of its own")
    engine = Transformers(BATCH)
    engine.open(Checkpoint(first, first))
    adapters = [_adapter(second, work / name) for name in ("c", "d")]
    base = Checkpoint(second, second)
    for name, checkpoint in (
        ("warm, full model", base),
        ("warm, 1st adapter", adapters[0]),
        ("warm, 2nd adapter", adapters[1]),
    ):
        before, started = psutil.Process().memory_info().rss, time.monotonic()
        engine.open(checkpoint)
        engine.complete(asked(4, 8))
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        print(f"trial: {name:17s} {time.monotonic() - started:6.2f} s, {max(grown, 0.0):6.0f} MiB more")


def _adapter(base: str, folder: Path) -> Checkpoint:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    name_base(folder, {"path": base})
    assert json.loads((folder / "base.json").read_text()) == {"path": base}
    return in_folder(folder)


if __name__ == "__main__":
    main()
