"""Evaluating one model folder with the benchmarks of a config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.fingerprint import digest, folder_digest
from data.store import Store
from data.toy import problems
from evaluators import statistics
from evaluators.benchmark import Benchmark, Completion, EvaluationFailed, Item, Verdict
from evaluators.config import CODE_BENCHMARKS, JUDGED_BENCHMARKS, BenchmarkConfig, EvaluateConfig
from evaluators.generate import Generator
from evaluators.gsm8k import Gsm8k
from evaluators.humaneval import HumanEval
from evaluators.mt_bench import MtBench
from evaluators.toy import ToyChat, ToyCode, ToyMath

VERSION = 2  # raise it when the same completions would get other scores, or the same prompts other completions
BENCHMARKS: dict[str, Any] = {
    "gsm8k": Gsm8k,
    "humaneval": HumanEval,
    "mt_bench": MtBench,
    "toy_math": ToyMath,
    "toy_code": ToyCode,
    "toy_chat": ToyChat,
}


def benchmarks(config: EvaluateConfig, store: Store | None = None) -> dict[str, Benchmark]:
    """The benchmarks of a config, by name. Judgments are kept in the store; without one each is paid for."""
    return {name: _built(name, c, config.allow_unsandboxed_code, store) for name, c in config.benchmarks.items()}


def _built(name: str, settings: BenchmarkConfig, unsandboxed: bool, store: Store | None) -> Benchmark:
    more: dict[str, Any] = {"unsandboxed": unsandboxed} if name in CODE_BENCHMARKS else {}
    more |= {"store": store} if name in JUDGED_BENCHMARKS else {}
    built: Benchmark = BENCHMARKS[name](settings, **more)
    return built


def judges(config: EvaluateConfig) -> dict[str, str]:
    """Who rates, by benchmark: judge, prompts, references and rules, in a line each."""
    return {name: benchmark.judge for name, benchmark in benchmarks(config).items() if benchmark.judge}


def fingerprint(config: EvaluateConfig) -> str:
    """Names the evaluation: items, settings, judge and protocol version, but not how scores are weighted."""
    named = {name: [_settings(c), _items(c)] for name, c in config.benchmarks.items()}
    code = config.allow_unsandboxed_code if config.runs_code else None
    return digest({"benchmarks": named, "unsandboxed": code, "version": VERSION})


def evaluate(
    model: str, config: EvaluateConfig, folder: Path, trust_remote_code: bool = False, store: Store | None = None
) -> dict[str, Any]:
    """Scores by benchmark, as plain values; the items with prompts, answers and verdicts go to `<folder>/<name>.jsonl`."""
    generator = Generator(model, config.batch_size, trust_remote_code)
    return {name: _one(name, benchmark, generator, folder) for name, benchmark in benchmarks(config, store).items()}


def _one(name: str, benchmark: Benchmark, generator: Generator, folder: Path) -> dict[str, Any]:
    items = benchmark.items()
    answers = generator.answer(items, benchmark.max_new_tokens, benchmark.sampling)
    verdicts = benchmark.verdicts(items, answers)
    if len(verdicts) != len(items):
        raise EvaluationFailed(f"{name}: {len(verdicts)} verdicts for {len(items)} items")
    _write(folder / f"{name}.jsonl", items, answers, verdicts)
    about = {"scale": benchmark.scale, "judge": benchmark.judge, "extras": benchmark.extras(verdicts)}
    return asdict(statistics.score(verdicts, answers)) | about


def _write(path: Path, items: Sequence[Item], answers: Sequence[Sequence[Completion]], verdicts: Sequence[Verdict]) -> None:
    lines = (
        {"id": item.id, "turns": item.turns, "answers": [asdict(turn) for turn in turns], **asdict(verdict)}
        for item, turns, verdict in zip(items, answers, verdicts, strict=True)
    )
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _settings(config: BenchmarkConfig) -> Mapping[str, Any]:
    return {k: v for k, v in config.model_dump(exclude=config.NOT_THE_SCORE).items() if k not in config.FILES}


def _items(config: BenchmarkConfig) -> Any:
    """The content of the files, in the order of their fields; the version of the toy world where there is none."""
    files = {name: getattr(config, name) for name in config.FILES}
    return {name: folder_digest(Path(path)) for name, path in files.items() if path} or problems.VERSION
