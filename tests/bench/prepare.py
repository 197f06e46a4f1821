"""Preparing data beside TRL, on the same rows, in the same run, with the same number of processes.

`make bench`, or `python tests/bench/prepare.py`. Both read the same messages from one parquet file, render the chat template,
tokenise, mask all but the assistant's turns and pack into 2,048 tokens. The tokenizer is a byte-pair encoding of 16,000
tokens trained on the benchmark files, as large and as fast as a real one. With `--paper`, conversations of the paper's number
and size are prepared instead, and the most memory that was used is printed.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow.parquet as parquet
from conversations import SIZES, talks

from data import conversations, mixture, parallel, prepare
from data.config import SourceConfig
from data.packing import pack
from data.store import Store
from trainers.batches import collate, layout

FILES = Path(os.environ.get("FULCRUM_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
LENGTH, BATCH, ROUNDS = 2048, 128, 5
ROWS = {"math": 5000, "code": 1000, "general": 4000}  # as many short ones for a long one as the paper has
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + '<|end|>\n' }}{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def main() -> None:
    """Print tokens a second, the ratio, the share of token slots that is used, and memory."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--paper", nargs="?", type=float, const=1.0, help="share of the paper's 216,224 conversations")
    options.add_argument("--processes", type=int, default=parallel.cores())
    given = options.parse_args()
    words = _words()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _tokenizer(words, work / "tokenizer")
        if given.paper:
            _paper(words, work, given.processes, {kind: round(given.paper * count) for kind, count in SIZES.items()})
        else:
            _beside_trl(words, work, given.processes)


def _beside_trl(words: list[str], work: Path, processes: int) -> None:
    made = chain.from_iterable(talks(kind, count, words) for kind, count in ROWS.items())
    source = work / "rows.parquet"
    parquet.write_table(_table({"messages": talk} for talk in made), source)
    print(
        f"prepare: {sum(ROWS.values())} conversations, {processes} processes; tokens a second, and CPU seconds of all processes"
    )
    ratios = []
    for number in range(ROUNDS):
        theirs, their_cpu, _ = _timed(_trl, source, work, processes, number)
        ours, our_cpu, tokens = _timed(_ours, source, work, processes, number)
        ratios.append((theirs / ours, their_cpu / our_cpu))
        told = f"  TRL {tokens / theirs:9,.0f} ({their_cpu:4.1f} s)   fulcrum {tokens / ours:9,.0f} ({our_cpu:4.1f} s)"
        print(f"{told}   ratio {ratios[-1][0]:.2f} ({ratios[-1][1]:.2f})", flush=True)
    wall, cpu = (median(ratio[i] for ratio in ratios) for i in (0, 1))
    print(f"  median ratio {wall:.2f} by the clock (target: at least 1.5), {cpu:.2f} in CPU seconds")
    _slots(words, work)


def _timed(prepared: Callable[..., int], *arguments: object) -> tuple[float, float, int]:
    """Seconds on the clock, CPU seconds of this process and its children, and what was returned."""
    started, before = time.monotonic(), _cpu_seconds()
    tokens = prepared(*arguments)
    return time.monotonic() - started, _cpu_seconds() - before, tokens


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _ours(source: Path, work: Path, processes: int, number: int) -> int:
    """From the file to tokens in the store and all examples packed; the number of tokens."""
    store = Store(str(work / f"store-{number}"))
    config = SourceConfig(path=str(source), format="messages", role="general")
    record = prepare.prepare(config, "bench", partial(_open, work), LENGTH, store, processes=processes)
    ready = prepare.Prepared(record["key"], store)
    pack(ready.table.lengths.tolist(), LENGTH)
    return int(record["tokens"])


def _trl(source: Path, work: Path, processes: int, number: int) -> int:
    """TRL's own preparation, from the same file; the number of rows that it packed."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    arguments = SFTConfig(
        output_dir=str(work / "trl"),
        max_length=LENGTH,
        packing=True,
        assistant_only_loss=True,
        dataset_num_proc=processes,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    rows = Dataset.from_parquet(str(source), cache_dir=str(work / f"trl-{number}"))
    trainer = SFTTrainer.__new__(SFTTrainer)  # its preparation without a model
    trainer._tokenizer, trainer.chat_template, trainer.completion_only_loss = _open(work), TEMPLATE, False
    return len(trainer._prepare_dataset(rows, trainer._tokenizer, arguments, True, None, "train"))


def _slots(words: list[str], work: Path) -> None:
    """The share of token slots that batches of 128 talks use, packed and not."""
    made, source = talks("general", 20 * BATCH, words, seed=1), work / "general.parquet"
    parquet.write_table(_table({"messages": talk} for talk in made), source)
    config = SourceConfig(path=str(source), format="messages", role="general")
    record = prepare.prepare(config, "bench", partial(_open, work), LENGTH, Store(str(work / "slots")))
    lengths = prepare.Prepared(record["key"], Store(str(work / "slots"))).table.lengths
    steps = mixture.steps(mixture.epochs(len(lengths), 1, 0), BATCH)
    print(f"token slots used in batches of {BATCH} ShareGPT-like talks of {np.mean(lengths):.0f} tokens, rows of {LENGTH}")
    for name, packing, rows in (
        ("packed", True, 8),
        ("length-grouped, unpacked", False, 8),
        ("one pass, unpacked", False, BATCH),
    ):
        used = [_use(lengths[step].tolist(), packing, rows) for step in steps if len(step) == BATCH]
        print(f"  {name:26} {100 * float(np.mean(used)):5.1f} % (worst batch {100 * min(used):.1f} %)")


def _use(lengths: list[int], packing: bool, rows: int) -> float:
    examples = [{"input_ids": [0] * n, "labels": [0] * n} for n in lengths]
    passes = layout(lengths, LENGTH, rows, 1, packing)
    return sum(lengths) / sum(collate(examples, share[0], 0).input_ids.numel() for share in passes)


def _paper(words: list[str], work: Path, processes: int, sizes: dict[str, int]) -> None:
    """Prepare as many conversations as the paper trains on, and watch this process and its children."""
    for kind, count in sizes.items():
        with (work / f"{kind}.jsonl").open("w") as file:
            file.writelines(json.dumps({"messages": talk}) + "\n" for talk in talks(kind, count, words))
    store, started, watch = Store(str(work / "paper")), time.monotonic(), _Watch()
    with watch:
        for kind in sizes:
            config = SourceConfig(path=str(work / f"{kind}.jsonl"), format="messages", role="general")
            tell = partial(print, f"  {kind}:", flush=True)
            record = prepare.prepare(config, "bench", partial(_open, work), LENGTH, store, tell=tell, processes=processes)
            print(
                f"  {kind}: {record['used']:,} of {record['rows']:,} rows, {record['tokens']:,} tokens", record["quarantined"]
            )
    seconds, text = time.monotonic() - started, sum((work / f"{kind}.jsonl").stat().st_size for kind in sizes)
    print(f"paper's size: {sum(sizes.values()):,} conversations, {text / 1e6:,.0f} MB, {seconds:.0f} s")
    print(f"  peak memory of all processes {watch.peak / 2**20:.0f} MiB (target: below 1024)")
    started = time.monotonic()
    for kind in sizes:
        config = SourceConfig(path=str(work / f"{kind}.jsonl"), format="messages", role="general")
        prepare.prepare(config, "bench", partial(_open, work), LENGTH, store)
    print(f"  again, from the store: {time.monotonic() - started:.2f} s; {conversations.KIND} and {prepare.KIND} were there")


class _Watch(threading.Thread):
    """The most memory of this process and its children together; shared pages count once (PSS)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._over = 0, threading.Event()

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.2):
            self.peak = max(self.peak, sum(map(_pss, [me, *me.children(recursive=True)])))


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _words() -> list[str]:
    """The words of the benchmark files, in order."""
    rows = [json.loads(line) for line in (FILES / "gsm8k" / "train.jsonl").open()]
    more = json.loads((FILES / "general" / "alpaca_en_demo.json").read_text())
    text = [row["question"] + " " + row["answer"] for row in rows] + [row["instruction"] + " " + row["output"] for row in more]
    return " ".join(text).split(" ")


def _tokenizer(words: list[str], folder: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
    trained.train_from_iterator(
        [" ".join(words)[i : i + 10_000] for i in range(0, 6_000_000, 10_000)], 16_000, special_tokens=special
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, pad_token="<pad>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def _open(work: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work / "tokenizer")


def _table(rows: object) -> object:
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=pa.schema([("messages", pa.list_(conversations.MESSAGE))]))


if __name__ == "__main__":
    main()
