"""Generations and evaluations in the store, and the way from a checkpoint to scores without Ray.

`generations/<key>` holds `answers.jsonl`, a line per item; `evaluations/<key>` holds `<benchmark>.jsonl`, a line per item with
prompt, answer and verdict, and its record the score.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.checkpoints import Checkpoint
from data.store import Record, Store
from evaluators import evaluate, statistics
from evaluators.benchmark import Benchmark, Completion, EvaluationFailed, Item, Verdict
from evaluators.config import EvaluateConfig
from evaluators.generation import engines, interface
from evaluators.judge.cost import judging, total
from evaluators.subsets import subset

GENERATIONS = "generations"
EVALUATIONS = "evaluations"
Answers = Sequence[Sequence[Completion]]


def keep_answers(store: Store, key: str, items: Sequence[Item], answers: Answers, record: Record) -> None:
    """Publish a generation. Raises EvaluationFailed where an item lacks an answer."""
    if len(answers) != len(items) or any(len(a) != len(i.turns) for a, i in zip(answers, items, strict=True)):
        raise EvaluationFailed(f"generation {key}: {len(answers)} answers to {len(items)} items")
    lines = [{"id": i.id, "answers": [asdict(turn) for turn in a]} for i, a in zip(items, answers, strict=True)]
    record |= {"items": len(items), "tokens": sum(turn.tokens for turns in answers for turn in turns)}
    with store.writing(GENERATIONS, key, record) as folder:
        _write(folder / "answers.jsonl", lines)


def answers_of(store: Store, key: str, items: Sequence[Item]) -> list[list[Completion]]:
    """A generation from the store, in the order of the items."""
    lines = [json.loads(line) for line in (store.fetch(GENERATIONS, key) / "answers.jsonl").open(encoding="utf-8")]
    said = {line["id"]: [Completion(**turn) for turn in line["answers"]] for line in lines}
    return [said[item.id] for item in items]


def score(name: str, benchmark: Benchmark, items: Sequence[Item], answers: Answers, folder: Path) -> dict[str, Any]:
    """The score of a benchmark as plain values; the items with prompts, answers and verdicts go to `<folder>/<name>.jsonl`."""
    verdicts = benchmark.verdicts(items, answers)
    if len(verdicts) != len(items):
        raise EvaluationFailed(f"{name}: {len(verdicts)} verdicts for {len(items)} items")
    _write(folder / f"{name}.jsonl", [_line(*one) for one in zip(items, answers, verdicts, strict=True)])
    about = {"scale": benchmark.scale, "judge": benchmark.judge, "extras": benchmark.extras(verdicts)}
    return asdict(statistics.score(verdicts, answers)) | about


def publish_score(
    store: Store, key: str, name: str, config: EvaluateConfig, generation: str, record: Record, share: float = 1.0
) -> Record:
    """Score a generation of the store, of a share of the questions, and publish the evaluation; its record."""
    benchmark = evaluate.benchmark(config, name, store)
    items = subset(benchmark.items(), share)
    answers = answers_of(store, generation, items)
    record |= {"key": key, "benchmark": name, "generation": generation}
    with store.writing(EVALUATIONS, key, record) as folder:
        record["scores"] = {name: score(name, benchmark, items, answers, folder)}
        if costs := judging(record["scores"]):
            record["cost"] = total(costs)
    return record


def evaluate_here(
    checkpoint: Checkpoint,
    identity: str,
    config: EvaluateConfig,
    store: Store,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Record]:
    """The record of each benchmark's evaluation, made in this process where the store does not hold it."""
    made: dict[str, Record] = {}
    engine = _Lazy(checkpoint, config, trust_remote_code)
    try:
        for name, named in evaluate.identities(config).items():
            made[name] = _one(name, named, identity, config, store, engine, say)
    finally:
        engine.close()
    return made


def _one(
    name: str,
    named: evaluate.Identity,
    checkpoint: str,
    config: EvaluateConfig,
    store: Store,
    engine: "_Lazy",
    say: Callable[[str], None],
) -> Record:
    generation, key = named.generation(checkpoint), named.evaluation(checkpoint)
    found = store.record(EVALUATIONS, key)
    if found is not None:
        say(f"{name}: from the store")
        return found
    if store.record(GENERATIONS, generation) is None:
        benchmark = evaluate.benchmark(config, name)
        items = benchmark.items()
        say(f"{name}: {len(items)} items are answered")
        started = time.monotonic()
        answers = interface.answer(engine.get(), items, benchmark.max_new_tokens, benchmark.sampling)
        about = {"benchmark": name, "seconds": time.monotonic() - started, **engine.get().about()}
        keep_answers(store, generation, items, answers, about)
    say(f"{name}: the answers are scored")
    return publish_score(store, key, name, config, generation, {"checkpoint": checkpoint})


class _Lazy:
    """An engine that is started when it is first needed: what the store holds needs none."""

    def __init__(self, checkpoint: Checkpoint, config: EvaluateConfig, trust_remote_code: bool) -> None:
        self._checkpoint, self._config, self._trust = checkpoint, config, trust_remote_code
        self._engine: interface.Engine | None = None

    def get(self) -> interface.Engine:
        if self._engine is None:
            self._engine = engines.make(self._config.engine, self._config.batch_size, self._trust)
            self._engine.open(self._checkpoint)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _line(item: Item, turns: Sequence[Completion], verdict: Verdict) -> dict[str, Any]:
    return {"id": item.id, "turns": item.turns, "answers": [asdict(turn) for turn in turns], **asdict(verdict)}


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
