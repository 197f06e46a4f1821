"""Evaluating one model folder with the benchmarks of a config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.fingerprint import digest, folder_digest
from data.toy import problems
from evaluators import statistics
from evaluators.benchmark import Benchmark, Completion, EvaluationFailed, Item, Verdict
from evaluators.config import CODE_BENCHMARKS, BenchmarkConfig, EvaluateConfig
from evaluators.generate import Generator
from evaluators.gsm8k import Gsm8k
from evaluators.humaneval import HumanEval
from evaluators.mt_bench import MtBench
from evaluators.toy import ToyChat, ToyCode, ToyMath

VERSION = 1  # raise it when the same completions would get other scores, or the same prompts other completions
BENCHMARKS: dict[str, Any] = {
    "gsm8k": Gsm8k,
    "humaneval": HumanEval,
    "mt_bench": MtBench,
    "toy_math": ToyMath,
    "toy_code": ToyCode,
    "toy_chat": ToyChat,
}
NOT_THE_SCORE = {"role", "weight"}


def benchmarks(config: EvaluateConfig) -> dict[str, Benchmark]:
    """The benchmarks of a config, by name."""
    return {name: _built(name, settings, config.allow_unsandboxed_code) for name, settings in config.benchmarks.items()}


def _built(name: str, settings: BenchmarkConfig, unsandboxed: bool) -> Benchmark:
    more = {"unsandboxed": unsandboxed} if name in CODE_BENCHMARKS else {}
    built: Benchmark = BENCHMARKS[name](settings, **more)
    return built


def fingerprint(config: EvaluateConfig) -> str:
    """Names the evaluation: items, settings and protocol version, but not how scores are weighted."""
    named = {name: [_settings(c), _items(c)] for name, c in config.benchmarks.items()}
    code = config.allow_unsandboxed_code if config.runs_code else None
    return digest({"benchmarks": named, "unsandboxed": code, "version": VERSION})


def evaluate(model: str, config: EvaluateConfig, folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """Scores by benchmark, as plain values; the items with prompts, answers and verdicts go to `<folder>/<name>.jsonl`."""
    generator = Generator(model, config.batch_size, trust_remote_code)
    return {name: _one(name, benchmark, generator, folder) for name, benchmark in benchmarks(config).items()}


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


def _settings(config: Any) -> Mapping[str, Any]:
    return {k: v for k, v in config.model_dump().items() if k not in NOT_THE_SCORE | {"path"}}


def _items(config: Any) -> Any:
    return folder_digest(Path(config.path)) if hasattr(config, "path") else problems.VERSION
