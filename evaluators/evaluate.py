"""The benchmarks of a config, and what names their results.

Two kinds of entry in the store: a generation is named by the checkpoint, the prompts, how they are decoded and by which engine;
an evaluation by its generation and how the answers are scored. So another benchmark, another weight or another rule of scoring
generates nothing again.
"""

from dataclasses import asdict, dataclass
from typing import Any

from data.fingerprint import digest
from data.store import Store
from evaluators.benchmark import Benchmark
from evaluators.config import CODE_BENCHMARKS, JUDGED_BENCHMARKS, BenchmarkConfig, EvaluateConfig
from evaluators.generation import engines
from evaluators.gsm8k import Gsm8k
from evaluators.humaneval import HumanEval
from evaluators.items import named, on_the_hub
from evaluators.mt_bench import MtBench
from evaluators.toy import ToyChat, ToyCode, ToyMath

GENERATION_VERSION = 2  # raise it when the same prompts would get other completions
VERSION = 2  # raise it when the same completions would get other scores
BENCHMARKS: dict[str, Any] = {
    "gsm8k": Gsm8k,
    "humaneval": HumanEval,
    "mt_bench": MtBench,
    "toy_math": ToyMath,
    "toy_code": ToyCode,
    "toy_chat": ToyChat,
}


@dataclass(frozen=True)
class Identity:
    """Names what a benchmark asks and how it scores. `count` is the number of items, None where it is known only later."""

    prompts: str
    scoring: str
    count: int | None

    def generation(self, checkpoint: str) -> str:
        """Key of the answers of a checkpoint."""
        return digest({"checkpoint": checkpoint, "prompts": self.prompts})

    def evaluation(self, checkpoint: str) -> str:
        """Key of the scores of a checkpoint."""
        return digest({"generation": self.generation(checkpoint), "scoring": self.scoring})


def benchmarks(config: EvaluateConfig) -> dict[str, Benchmark]:
    """The benchmarks of a config, by name."""
    return {name: benchmark(config, name) for name in config.benchmarks}


def benchmark(config: EvaluateConfig, name: str, store: Store | None = None) -> Benchmark:
    """One benchmark of a config. Judgments are kept in the store; without one each is paid for."""
    more: dict[str, Any] = {"unsandboxed": config.allow_unsandboxed_code} if name in CODE_BENCHMARKS else {}
    more |= {"store": store} if name in JUDGED_BENCHMARKS else {}
    built: Benchmark = BENCHMARKS[name](config.benchmarks[name], **more)
    return built


def judges(config: EvaluateConfig) -> dict[str, str]:
    """Who rates, by benchmark: judge, prompts, references and rules, in a line each."""
    return {name: built.judge for name, built in benchmarks(config).items() if built.judge}


def identities(config: EvaluateConfig) -> dict[str, Identity]:
    """The identity of each benchmark, without its role and weight. Raises ItemsUnusable for items that cannot be read."""
    return {name: _identity(config, name, settings) for name, settings in config.benchmarks.items()}


def _identity(config: EvaluateConfig, name: str, settings: BenchmarkConfig) -> Identity:
    built = benchmark(config, name)
    files = {field: path for field in settings.FILES if (path := getattr(settings, field))}
    how = {"max_new_tokens": built.max_new_tokens, "sampling": asdict(built.sampling)}
    how |= {"engine": engines.identity(config.engine), "version": GENERATION_VERSION}
    told = settings.model_dump(exclude=settings.NOT_THE_SCORE)
    scored = {field: value for field, value in told.items() if field not in settings.FILES}
    unsandboxed = config.allow_unsandboxed_code if name in CODE_BENCHMARKS else None
    scoring: dict[str, Any] = {"benchmark": name, "settings": scored, "unsandboxed": unsandboxed, "version": VERSION}
    scoring |= {"files": {field: named(path) for field, path in files.items()}}
    if any(on_the_hub(path) for path in files.values()):
        # Not loaded for its name alone: `plan` answers at once, and without a network.
        return Identity(digest({"asked": [scored, scoring["files"]], "how": how}), digest(scoring), None)
    items = built.items()
    scoring |= {"judge": built.judge} if files else {"references": [item.reference for item in items], "judge": built.judge}
    return Identity(digest({"asked": [item.prompt for item in items], "how": how}), digest(scoring), len(items))
