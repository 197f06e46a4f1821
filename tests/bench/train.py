"""Useful tokens per second and peak memory of one stage: fulcrum, TRL's SFTTrainer and bare PyTorch loops, in turns.

`make bench`, or `python tests/bench/train.py`. Everyone trains the same LLaMA of 10M parameters from the same weights on the
same tokens of real files (FULCRUM_BENCHMARKS), length 512, about 8 full rows per optimiser step, fp32, AdamW, one process of
one thread. Useful tokens are those of the examples: padding does not count. Each contender has a process of its own; its
first step is not timed. Memory is what the process held at its peak.
"""

import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

FILES = Path(os.environ.get("FULCRUM_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
SOURCES = {
    "alpaca": ("general/alpaca_en_demo.json", "alpaca"),
    "code": ("codealpaca/code_alpaca_2k.json", "alpaca"),
    "sharegpt": ("general/sharegpt_examples.json", "sharegpt"),
    "identity": ("general/sharegpt_identity.json", "sharegpt"),
}
MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
LENGTH, ROWS, VOCABULARY, LR = 512, 8, 8192, 3e-4
SHARE = 1 / 20  # of every source
ROUNDS = 3

Tick = Callable[[int], None]
"""To be called at the end of every optimiser step with the useful tokens so far."""


def main() -> None:
    """Print a table: medians over the rounds, of which the last has everyone and the others the two that are close."""
    with tempfile.TemporaryDirectory() as work:
        print(prepare(Path(work)), flush=True)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for left in range(ROUNDS)[::-1]:
            for name in found if not left else CLOSE:
                found[name].append(alone(name, work))
                print(f"  {name}: {found[name][-1]}", flush=True)
    ours = median(run["rate"] for run in found["fulcrum"])
    print("| contender | useful tokens/s | fulcrum against it | peak memory, MiB |\n| --- | --- | --- | --- |")
    for name, runs in found.items():
        rate, memory = (median(run[key] for run in runs) for key in ("rate", "memory"))
        print(f"| {name} | {rate:.0f} | {ours / rate:.2f}x | {memory:.0f} |")


def alone(name: str, work: str) -> dict[str, float]:
    """What a contender tells, run in a process of its own."""
    ended = subprocess.run([sys.executable, __file__, name, work], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-3000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def contend(name: str, work: str) -> None:
    """Run one contender and print its rate and its peak memory."""
    import torch

    torch.set_num_threads(1)
    ticks: list[tuple[float, int]] = []
    CONTENDERS[name](pickle.loads((Path(work) / "job").read_bytes()), lambda tokens: ticks.append((time.monotonic(), tokens)))
    (began, first), (ended, last) = ticks[0], ticks[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rate": (last - first) / (ended - began), "memory": peak}))


def fulcrum(job: Any, tick: Tick) -> None:
    """A stage as it is trained in a sweep: the loop on one process, the DeepSpeed engine around the model."""
    from trainers.loop import train_stage

    train_stage(job, lambda progress: tick(progress.tokens))


def bare(job: Any, tick: Tick) -> None:
    """A plain PyTorch loop over the same packed rows: logits everywhere, torch's fused AdamW."""
    from trainers.batches import collate, layout

    def batches(rows: list[Any]) -> Iterable[dict[str, Any]]:
        for (shares,) in layout([row["length"] for row in rows], LENGTH, ROWS, 1, packing=True):
            batch = collate(rows, shares, padding=0)
            yield {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "labels": batch.labels}

    _plain(job, tick, batches)


def padded(job: Any, tick: Tick) -> None:
    """A plain PyTorch loop without packing: ROWS examples a forward pass, padded to the longest."""
    import torch

    def batches(rows: list[Any]) -> Iterable[dict[str, Any]]:
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            columns = {"input_ids": ("input_ids", 0), "labels": ("labels", -100)}
            tensors = {
                name: torch.nn.utils.rnn.pad_sequence([torch.tensor(row[c]) for row in some], True, filler)
                for name, (c, filler) in columns.items()
            }
            lengths = torch.tensor([row["length"] for row in some])
            yield tensors | {"attention_mask": torch.arange(tensors["labels"].shape[1]) < lengths[:, None]}

    _plain(job, tick, batches)


def _plain(job: Any, tick: Tick, batches: Callable[[list[Any]], Iterable[dict[str, Any]]]) -> None:
    import torch

    from data.store import Store
    from trainers.batches import labelled
    from trainers.examples import Examples

    examples, model, tokens = Examples(job, Store(job.store)), _model(job), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    for step in range(len(examples.steps)):
        rows = examples.of_step(step)
        for inputs in batches(rows):
            labels = inputs.pop("labels")
            logits = model(**inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            (loss / labelled(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tick(tokens := tokens + sum(row["length"] for row in rows))


def trl(job: Any, tick: Tick) -> None:
    """TRL's SFTTrainer with its own packing, on the same tokens and labels."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from data.store import Store
    from trainers import base
    from trainers.examples import Examples

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            tick(int(state.num_input_tokens_seen))  # packed without padding: every input is useful

    store = Store(job.store)
    examples = Examples(job, store)
    rows = [row for step in range(len(examples.steps)) for row in examples.of_step(step)]
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        packing=True,
        max_length=LENGTH,
        per_device_train_batch_size=ROWS,
        num_train_epochs=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        include_num_input_tokens_seen="all",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        _model(job),
        settings,
        train_dataset=Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows]),
        processing_class=base.open_tokenizer(job.model, store),
        callbacks=[Ticks()],
    )
    trainer.train()


CONTENDERS: dict[str, Callable[[Any, Tick], None]] = {
    "fulcrum": fulcrum,
    "bare, packed": bare,
    "bare, padded": padded,
    "TRL": trl,
}
CLOSE = ("fulcrum", "bare, packed")


def prepare(work: Path) -> str:
    """Tokenizer, model, tokenised sources and the job of a stage over them, below `work`; told in a line."""
    from data import arrow, conversations, prepare, sources
    from data.config import SourceConfig
    from data.store import Store
    from trainers import base
    from trainers.config import ModelConfig, TrainConfig
    from trainers.examples import Examples
    from trainers.job import Share, StageJob

    given = {
        name: SourceConfig(path=str(FILES / path), format=layout, role="general") for name, (path, layout) in SOURCES.items()
    }
    store = Store(str(work / "store"))
    rows = [conversations.rows(conversations.parse(source, store), store) for source in given.values()]
    talks = [talk for place in rows for talk in arrow.table(place)["messages"].to_pylist()]
    tokenizer(message["content"] for talk in talks for message in talk).save_pretrained(work / "tokenizer")
    model = ModelConfig(init_from_config=MODEL, tokenizer=str(work / "tokenizer"))
    name = base.fingerprint(model)
    shares, mean = [], 0.0
    for label, source in given.items():
        record = prepare.prepare(source, name, lambda: base.open_tokenizer(model, store), LENGTH, store)
        mean += record["tokens"] / len(talks)
        found = sources.fingerprint(source)
        shares.append(Share(label, prepare.prepared_key(found, name, LENGTH), found, SHARE))
    train = TrainConfig(
        epochs=1, lr=LR, batch_size=round(LENGTH * ROWS / mean), max_length=LENGTH, rows=ROWS, schedule="constant", warmup=0
    )
    job = StageJob("stage", None, name, tuple(shares), train, model, str(work / "store"), 1, False, 1, time.time())
    (work / "job").write_bytes(pickle.dumps(job))
    steps, size = Examples(job, store).steps, _model(job).num_parameters()
    return f"{size / 1e6:.1f}M parameters, {len(steps)} steps of {train.batch_size} examples, {mean:.0f} tokens each on average"


def tokenizer(texts: Iterable[str]) -> Any:
    """A byte-pair encoding of VOCABULARY tokens, learned from the texts themselves."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from data.tokenizers import END, PAD

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=learned, pad_token=PAD, eos_token=END)


def _model(job: Any) -> Any:
    from data.store import Store
    from trainers import base, models

    return models.load(base.location(job.model, Store(job.store)), job.model).train()


if __name__ == "__main__":
    contend(*sys.argv[1:]) if sys.argv[1:] else main()
